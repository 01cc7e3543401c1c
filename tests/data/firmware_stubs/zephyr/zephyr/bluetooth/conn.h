/* SPDX-License-Identifier: Apache-2.0
 * Stub: the part of Zephyr's connections that the sketch uses. */
#pragma once
#include <stdint.h>

struct bt_conn;
struct bt_conn_pairing_feat;
enum bt_security_err { BT_SECURITY_ERR_SUCCESS = 0, BT_SECURITY_ERR_PAIR_NOT_ALLOWED = 6 };

struct bt_conn_cb {
	void (*connected)(struct bt_conn *conn, uint8_t err);
	void (*disconnected)(struct bt_conn *conn, uint8_t reason);
	void (*recycled)(void);
};
#define BT_CONN_CB_DEFINE(name) const struct bt_conn_cb name

struct bt_conn_auth_cb {
	enum bt_security_err (*pairing_accept)(struct bt_conn *conn, const struct bt_conn_pairing_feat *const feat);
};
int bt_conn_auth_cb_register(const struct bt_conn_auth_cb *callbacks);
