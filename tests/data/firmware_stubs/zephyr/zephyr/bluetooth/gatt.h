/* What the sketch uses of Zephyr's Bluetooth host, declared and no more. */
#ifndef STUB_GATT_H
#define STUB_GATT_H

#include <zephyr/kernel.h>

struct bt_conn;
struct bt_uuid {
	uint8_t bytes[16];
};
struct bt_gatt_attr;
typedef ssize_t (*stub_read)(struct bt_conn *, const struct bt_gatt_attr *, void *, uint16_t, uint16_t);
typedef ssize_t (*stub_write)(struct bt_conn *, const struct bt_gatt_attr *, const void *, uint16_t, uint16_t, uint8_t);
struct bt_gatt_attr {
	const struct bt_uuid *uuid;
	uint16_t perm;
	stub_read read;
	stub_write write;
};
struct bt_gatt_service_static {
	const struct bt_gatt_attr *attrs;
};

#define BT_UUID_DECLARE_128(...) (&(const struct bt_uuid){{__VA_ARGS__}})
#define BT_GATT_CHRC_READ 0x02
#define BT_GATT_CHRC_WRITE 0x08
#define BT_GATT_CHRC_NOTIFY 0x10
#define BT_GATT_CHRC_INDICATE 0x20
#define BT_GATT_PERM_READ 0x01
#define BT_GATT_PERM_WRITE 0x02
#define BT_GATT_PERM_READ_ENCRYPT 0x04
#define BT_GATT_PERM_WRITE_ENCRYPT 0x08
#define BT_ATT_ERR_INVALID_OFFSET 0x07
#define BT_ATT_ERR_UNLIKELY 0x0e
#define BT_ATT_ERR_PROCEDURE_IN_PROGRESS 0xfe
#define BT_GATT_ERR(error) (-(error))
#define BT_GATT_PRIMARY_SERVICE(service) {.uuid = service}
#define BT_GATT_CHARACTERISTIC(characteristic, properties, permission, reading, writing, data) \
	{.uuid = characteristic}, \
	{ \
		.uuid = characteristic, .perm = (permission) | 0 * (properties), .read = reading, .write = writing \
	}
#define BT_GATT_CCC(changed, permission) {.perm = permission}
#define BT_GATT_SERVICE_DEFINE(name, ...) \
	static const struct bt_gatt_attr name##_attrs[] = {__VA_ARGS__}; \
	static const struct bt_gatt_service_static name = {name##_attrs}

struct bt_gatt_indicate_params {
	const struct bt_gatt_attr *attr;
	void (*destroy)(struct bt_gatt_indicate_params *);
	const void *data;
	uint16_t len;
};
struct bt_gatt_cb {
	void (*att_mtu_updated)(struct bt_conn *conn, uint16_t tx, uint16_t rx);
};
ssize_t bt_gatt_attr_read(struct bt_conn *conn, const struct bt_gatt_attr *attr, void *buf, uint16_t len,
			  uint16_t offset, const void *value, uint16_t value_len);
int bt_gatt_notify(struct bt_conn *conn, const struct bt_gatt_attr *attr, const void *data, uint16_t len);
int bt_gatt_indicate(struct bt_conn *conn, struct bt_gatt_indicate_params *params);
void bt_gatt_cb_register(struct bt_gatt_cb *callbacks);

/* bluetooth.h, conn.h */
struct bt_data {
	uint8_t type;
	uint8_t size;
	const uint8_t *data;
};
#define BT_DATA(kind, bytes, length) {kind, length, (const uint8_t *)(bytes)}
#define BT_DATA_BYTES(kind, ...) \
	BT_DATA(kind, ((const uint8_t[]){__VA_ARGS__}), sizeof((const uint8_t[]){__VA_ARGS__}))
#define BT_DATA_FLAGS 0x01
#define BT_DATA_UUID128_ALL 0x07
#define BT_DATA_NAME_COMPLETE 0x09
#define BT_LE_AD_GENERAL 0x02
#define BT_LE_AD_NO_BREDR 0x04
#define BT_LE_ADV_CONN_FAST_2 NULL
int bt_enable(void *ready);
int bt_le_adv_start(const void *param, const struct bt_data *ad, size_t ad_len, const struct bt_data *sd, size_t sd_len);

struct bt_conn_cb {
	void (*disconnected)(struct bt_conn *conn, uint8_t reason);
	void (*recycled)(void);
};
#define BT_CONN_CB_DEFINE(name) const struct bt_conn_cb name
struct bt_conn_pairing_feat;
enum bt_security_err { BT_SECURITY_ERR_SUCCESS, BT_SECURITY_ERR_PAIR_NOT_ALLOWED };
struct bt_conn_auth_cb {
	enum bt_security_err (*pairing_accept)(struct bt_conn *conn, const struct bt_conn_pairing_feat *const feat);
};
int bt_conn_auth_cb_register(const struct bt_conn_auth_cb *callbacks);

#endif
