/* SPDX-License-Identifier: Apache-2.0
 * Stub. */
#pragma once
#include <stdint.h>
struct bt_uuid {
	uint8_t type;
};
struct bt_uuid_128 {
	struct bt_uuid uuid;
	uint8_t val[16];
};
#define BT_UUID_DECLARE_128(...) ((const struct bt_uuid *)((const struct bt_uuid_128[]){{{2}, {__VA_ARGS__}}}))
