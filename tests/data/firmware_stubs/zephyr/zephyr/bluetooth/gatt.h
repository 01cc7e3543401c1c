/* SPDX-License-Identifier: Apache-2.0
 * Stub: the part of Zephyr's GATT server that the sketch uses; it counts attributes as the real one does. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <zephyr/bluetooth/conn.h>
#include <zephyr/bluetooth/uuid.h>

struct bt_gatt_attr;
typedef ssize_t (*bt_gatt_attr_read_func_t)(struct bt_conn *conn, const struct bt_gatt_attr *attr, void *buf,
					    uint16_t len, uint16_t offset);
typedef ssize_t (*bt_gatt_attr_write_func_t)(struct bt_conn *conn, const struct bt_gatt_attr *attr, const void *buf,
					     uint16_t len, uint16_t offset, uint8_t flags);
struct bt_gatt_attr {
	const struct bt_uuid *uuid;
	bt_gatt_attr_read_func_t read;
	bt_gatt_attr_write_func_t write;
	void *user_data;
	uint16_t perm;
	uint8_t properties;
};
struct bt_gatt_service_static {
	const struct bt_gatt_attr *attrs;
	size_t attr_count;
};

#define BT_GATT_PRIMARY_SERVICE(uuid) {uuid, NULL, NULL, NULL, 0, 0}
#define BT_GATT_CHARACTERISTIC(uuid, properties, perm, read, write, user_data) \
	{uuid, NULL, NULL, NULL, 0, properties}, {uuid, read, write, user_data, perm, 0}
#define BT_GATT_CCC(changed, perm) {NULL, NULL, NULL, (void *)(changed), perm, 0}
#define BT_GATT_SERVICE_DEFINE(name, ...) \
	static const struct bt_gatt_attr name##_attrs[] = {__VA_ARGS__}; \
	_Static_assert(sizeof(name##_attrs) / sizeof(name##_attrs[0]) == 12, "the sketch counts on its places"); \
	static const struct bt_gatt_service_static name = {name##_attrs, sizeof(name##_attrs) / sizeof(name##_attrs[0])}

enum { BT_GATT_CHRC_READ = 2, BT_GATT_CHRC_WRITE = 8, BT_GATT_CHRC_NOTIFY = 16, BT_GATT_CHRC_INDICATE = 32 };
enum { BT_GATT_PERM_READ = 1, BT_GATT_PERM_READ_ENCRYPT = 4, BT_GATT_PERM_WRITE_ENCRYPT = 8 };
enum { BT_ATT_ERR_INVALID_OFFSET = 0x07, BT_ATT_ERR_UNLIKELY = 0x0e, BT_ATT_ERR_PROCEDURE_IN_PROGRESS = 0xfe };
#define BT_GATT_ERR(code) (-(code))

struct bt_gatt_cb {
	void (*att_mtu_updated)(struct bt_conn *conn, uint16_t tx, uint16_t rx);
};
struct bt_gatt_indicate_params {
	const struct bt_uuid *uuid;
	const struct bt_gatt_attr *attr;
	void (*func)(struct bt_conn *conn, struct bt_gatt_indicate_params *params, uint8_t err);
	void (*destroy)(struct bt_gatt_indicate_params *params);
	const void *data;
	uint16_t len;
};
ssize_t bt_gatt_attr_read(struct bt_conn *conn, const struct bt_gatt_attr *attr, void *buf, uint16_t buf_len,
			  uint16_t offset, const void *value, uint16_t value_len);
int bt_gatt_notify(struct bt_conn *conn, const struct bt_gatt_attr *attr, const void *data, uint16_t len);
int bt_gatt_indicate(struct bt_conn *conn, struct bt_gatt_indicate_params *params);
void bt_gatt_cb_register(struct bt_gatt_cb *callbacks);
