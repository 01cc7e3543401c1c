/* SPDX-License-Identifier: Apache-2.0
 * Stub: the part of Zephyr's GAP that the sketch uses. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct bt_data {
	uint8_t type, data_len;
	const uint8_t *data;
};
#define BT_DATA(type, data, size) {(type), (size), (const uint8_t *)(data)}
#define BT_DATA_BYTES(type, ...) BT_DATA(type, ((const uint8_t[]){__VA_ARGS__}), sizeof((uint8_t[]){__VA_ARGS__}))
#define BT_DATA_FLAGS 0x01
#define BT_DATA_UUID128_ALL 0x07
#define BT_DATA_NAME_COMPLETE 0x09
#define BT_LE_AD_GENERAL 0x02
#define BT_LE_AD_NO_BREDR 0x04

struct bt_le_adv_param;
#define BT_LE_ADV_CONN_FAST_2 ((const struct bt_le_adv_param *)NULL)
int bt_enable(void (*ready)(int err));
int bt_le_adv_start(const struct bt_le_adv_param *param, const struct bt_data *ad, size_t ad_len,
		    const struct bt_data *sd, size_t sd_len);
