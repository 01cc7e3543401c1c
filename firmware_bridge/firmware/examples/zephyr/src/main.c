/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Open EDA from an nRF52, for Zephyr 4.0 or nRF Connect SDK 3.0 and newer: a sketch to start from, see README.md.
 * Knows nothing of your board but an ADC channel (app.overlay) and the two numbers of your front end below.
 *
 * Three contexts. A timer gives `due`; the sampler thread stamps and takes the sample, and queues it. Bluetooth
 * callbacks queue what the host wrote. main() alone changes `sensor` and `packet`, so nothing is locked.
 */
#include <zephyr/bluetooth/bluetooth.h>
#include <zephyr/bluetooth/conn.h>
#include <zephyr/bluetooth/gatt.h>
#include <zephyr/bluetooth/uuid.h>
#include <zephyr/drivers/adc.h>
#include <zephyr/kernel.h>
#include <zephyr/random/random.h>
#include <zephyr/settings/settings.h>
#include <zephyr/sys/atomic.h>

#include <string.h>

#include "open_eda.h"

/* Front end: constant voltage on the skin, the current through it turned into a voltage by an amplifier. */
#define EXCITATION_MV 500
#define FEEDBACK_KOHM 200
#define SATURATED_UV 2900000 /* just below where the amplifier's output stops, on a 3.0 V supply */
#define OPEN_BELOW_NS 10     /* 100 Mohm: no skin; must lie above your board's leakage and offset */

#define PAIRING_WINDOW_MS 60000
#define QUEUED_SAMPLES 32 /* 4 s at 8 Hz for which main() may be held up */

static const uint32_t rates_mhz[] = {8000, 4000, 2000};

struct sample {
	uint32_t ticks;
	int32_t value;
};

struct written {
	uint8_t size;
	uint8_t data[8]; /* a command has 5 bytes at most; a longer write is cut here, and is as wrong as before */
};

K_MSGQ_DEFINE(samples, sizeof(struct sample), QUEUED_SAMPLES, 4);
K_MSGQ_DEFINE(writes, sizeof(struct written), 4, 4);
K_SEM_DEFINE(due, 0, 1);
K_SEM_DEFINE(work, 0, 1);
K_SEM_DEFINE(indication_free, 1, 1);

static atomic_t link_ended;
static atomic_t dropped;
static atomic_t mtu = ATOMIC_INIT(23);

static struct open_eda_sensor sensor;
static struct open_eda_packet packet;
static uint8_t status_now;

/* -- GATT */

static ssize_t read_info(struct bt_conn *conn, const struct bt_gatt_attr *attr, void *buf, uint16_t len,
			 uint16_t offset)
{
	uint8_t value[OPEN_EDA_INFO_SIZE];

	if (open_eda_info_encode(&sensor.info, value, sizeof(value)) < 0) {
		return BT_GATT_ERR(BT_ATT_ERR_UNLIKELY);
	}
	return bt_gatt_attr_read(conn, attr, buf, len, offset, value, sizeof(value));
}

static ssize_t read_status(struct bt_conn *conn, const struct bt_gatt_attr *attr, void *buf, uint16_t len,
			   uint16_t offset)
{
	return bt_gatt_attr_read(conn, attr, buf, len, offset, &status_now, sizeof(status_now));
}

static ssize_t write_control(struct bt_conn *conn, const struct bt_gatt_attr *attr, const void *buf, uint16_t len,
			     uint16_t offset, uint8_t flags)
{
	struct written written = {.size = MIN(len, sizeof(written.data))};

	if (offset != 0) {
		return BT_GATT_ERR(BT_ATT_ERR_INVALID_OFFSET);
	}
	memcpy(written.data, buf, written.size);
	if (k_msgq_put(&writes, &written, K_NO_WAIT) != 0) {
		return BT_GATT_ERR(BT_ATT_ERR_PROCEDURE_IN_PROGRESS);
	}
	k_sem_give(&work);
	return len;
}

/* Notify checks the read permission of a value: READ_ENCRYPT keeps Data from an open link, though none can read it. */
BT_GATT_SERVICE_DEFINE(
	eda_service, BT_GATT_PRIMARY_SERVICE(BT_UUID_DECLARE_128(OPEN_EDA_SERVICE_UUID_LE)),
	BT_GATT_CHARACTERISTIC(BT_UUID_DECLARE_128(OPEN_EDA_INFO_UUID_LE), BT_GATT_CHRC_READ, BT_GATT_PERM_READ, read_info,
			       NULL, NULL),
	BT_GATT_CHARACTERISTIC(BT_UUID_DECLARE_128(OPEN_EDA_DATA_UUID_LE), BT_GATT_CHRC_NOTIFY, BT_GATT_PERM_READ_ENCRYPT,
			       NULL, NULL, NULL),
	BT_GATT_CCC(NULL, BT_GATT_PERM_READ | BT_GATT_PERM_WRITE_ENCRYPT),
	BT_GATT_CHARACTERISTIC(BT_UUID_DECLARE_128(OPEN_EDA_STATUS_UUID_LE), BT_GATT_CHRC_READ | BT_GATT_CHRC_NOTIFY,
			       BT_GATT_PERM_READ_ENCRYPT, read_status, NULL, NULL),
	BT_GATT_CCC(NULL, BT_GATT_PERM_READ | BT_GATT_PERM_WRITE_ENCRYPT),
	BT_GATT_CHARACTERISTIC(BT_UUID_DECLARE_128(OPEN_EDA_CONTROL_UUID_LE), BT_GATT_CHRC_WRITE | BT_GATT_CHRC_INDICATE,
			       BT_GATT_PERM_READ_ENCRYPT | BT_GATT_PERM_WRITE_ENCRYPT, NULL, write_control, NULL),
	BT_GATT_CCC(NULL, BT_GATT_PERM_READ | BT_GATT_PERM_WRITE_ENCRYPT));

/* Places in the table above: the service has one entry, a characteristic two (the second is its value), a CCC one. */
enum { DATA_VALUE = 4, STATUS_VALUE = 7, CONTROL_VALUE = 10 };

/* -- Connection, advertising, bonds */

static const struct bt_data advertisement[] = {
	BT_DATA_BYTES(BT_DATA_FLAGS, (BT_LE_AD_GENERAL | BT_LE_AD_NO_BREDR)),
	BT_DATA_BYTES(BT_DATA_UUID128_ALL, OPEN_EDA_SERVICE_UUID_LE),
};
static const struct bt_data scan_response[] = {
	BT_DATA(BT_DATA_NAME_COMPLETE, CONFIG_BT_DEVICE_NAME, sizeof(CONFIG_BT_DEVICE_NAME) - 1),
};

static void advertise(struct k_work *item)
{
	(void)bt_le_adv_start(BT_LE_ADV_CONN_FAST_2, advertisement, ARRAY_SIZE(advertisement), scan_response,
			      ARRAY_SIZE(scan_response));
}
K_WORK_DEFINE(advertise_work, advertise);

static void disconnected(struct bt_conn *conn, uint8_t reason)
{
	atomic_set(&mtu, 23);
	atomic_set(&link_ended, 1);
	k_sem_give(&work);
}

static void recycled(void)
{
	k_work_submit(&advertise_work); /* not from in here: the stack is still in the middle of it */
}

BT_CONN_CB_DEFINE(connection_callbacks) = {.disconnected = disconnected, .recycled = recycled};

static void mtu_updated(struct bt_conn *conn, uint16_t tx, uint16_t rx)
{
	atomic_set(&mtu, MIN(tx, rx));
}
static struct bt_gatt_cb gatt_callbacks = {.att_mtu_updated = mtu_updated};

/* A new bond only in the first minute: whoever switches the sensor on has it in hand. */
static enum bt_security_err accept_pairing(struct bt_conn *conn, const struct bt_conn_pairing_feat *const feat)
{
	return k_uptime_get() < PAIRING_WINDOW_MS ? BT_SECURITY_ERR_SUCCESS : BT_SECURITY_ERR_PAIR_NOT_ALLOWED;
}
static const struct bt_conn_auth_cb pairing_callbacks = {.pairing_accept = accept_pairing};

/* -- Sampling */

static const struct adc_dt_spec adc = ADC_DT_SPEC_GET(DT_PATH(zephyr_user));

static void timer_expired(struct k_timer *timer)
{
	k_sem_give(&due);
}
K_TIMER_DEFINE(sample_timer, timer_expired, NULL);

static int32_t conductance_ns(int32_t uv)
{
	const int32_t ns = (int32_t)((int64_t)uv * 1000 / (EXCITATION_MV * FEEDBACK_KOHM));

	if (uv >= SATURATED_UV) {
		return OPEN_EDA_SATURATED;
	}
	return ns < OPEN_BELOW_NS ? OPEN_EDA_OPEN : ns;
}

static void sample_forever(void *a, void *b, void *c)
{
	int16_t raw;
	struct adc_sequence sequence = {.buffer = &raw, .buffer_size = sizeof(raw)};

	for (;;) {
		struct sample sample;
		int32_t uv;

		k_sem_take(&due, K_FOREVER);
		sample.ticks = k_uptime_get_32();
		(void)adc_sequence_init_dt(&adc, &sequence);
		if (adc_read_dt(&adc, &sequence) != 0) {
			continue; /* leaves a hole, which pack() sees */
		}
		uv = raw;
		(void)adc_raw_to_microvolts_dt(&adc, &uv);
		sample.value = conductance_ns(uv);
		if (k_msgq_put(&samples, &sample, K_NO_WAIT) != 0) {
			atomic_set(&dropped, 1);
		}
		k_sem_give(&work);
	}
}
/* Above main() (prj.conf) and below the Bluetooth threads: a sample must not wait for a notification. It runs from the
 * beginning, and waits for `due`, which nothing gives before main() starts the timer. */
K_THREAD_DEFINE(sampler, 1024, sample_forever, NULL, NULL, NULL, K_PRIO_PREEMPT(CONFIG_MAIN_THREAD_PRIORITY - 1), 0, 0);

/* -- main() */

static void send_packet(void)
{
	const uint8_t *bytes;
	const int size = open_eda_packet_take(&packet, &bytes);

	if (size > 0) { /* where it cannot be sent it is gone, and seq shows the host that it is */
		(void)bt_gatt_notify(NULL, &eda_service.attrs[DATA_VALUE], bytes, (uint16_t)size);
	}
}

static void pack(const struct sample *sample)
{
	static uint32_t previous;
	const uint32_t period = 1000000u / sensor.info.rate_mhz; /* ms */

	if (sample->ticks - previous > period + period / 2) {
		send_packet(); /* samples of one packet are equally spaced: after a hole, another one */
	}
	previous = sample->ticks;
	if (packet.n == 0) {
		(void)open_eda_packet_limit(
			&packet, MIN(OPEN_EDA_DEFAULT_SAMPLES, open_eda_max_samples((uint16_t)atomic_get(&mtu))));
	}
	if (open_eda_packet_add(&packet, sample->ticks, sample->value) == 1) {
		send_packet();
	}
	status_now = open_eda_status_of_value(sample->value);
}

static void tell_status(void)
{
	static uint8_t told;

	status_now |= atomic_get(&dropped) ? OPEN_EDA_STATUS_OVERRUN : 0;
	if (status_now == told ||
	    bt_gatt_notify(NULL, &eda_service.attrs[STATUS_VALUE], &status_now, sizeof(status_now)) != 0) {
		return;
	}
	told = status_now;
	if (told & OPEN_EDA_STATUS_OVERRUN) { /* it has been said: the next Status is without it */
		atomic_clear(&dropped);
		status_now &= (uint8_t)~OPEN_EDA_STATUS_OVERRUN;
	}
}

static void run_or_halt(bool was_streaming)
{
	if (sensor.streaming && !was_streaming) {
		k_sem_reset(&due);
		k_msgq_purge(&samples);
		open_eda_packet_clear(&packet);
		k_timer_start(&sample_timer, K_NO_WAIT, K_USEC(1000000000u / sensor.info.rate_mhz));
	} else if (!sensor.streaming) {
		k_timer_stop(&sample_timer);
	}
}

static void indicated(struct bt_gatt_indicate_params *params)
{
	k_sem_give(&indication_free);
}

static void obey(const struct written *written)
{
	static struct bt_gatt_indicate_params params;
	static uint8_t response[OPEN_EDA_RESPONSE_SIZE];
	const bool was_streaming = sensor.streaming;

	if (k_sem_take(&indication_free, K_SECONDS(1)) != 0) {
		return; /* a host that confirms nothing; the stack will end the connection */
	}
	(void)open_eda_control(&sensor, written->data, written->size, response);
	run_or_halt(was_streaming);
	params.attr = &eda_service.attrs[CONTROL_VALUE];
	params.destroy = indicated;
	params.data = response;
	params.len = sizeof(response);
	if (bt_gatt_indicate(NULL, &params) != 0) {
		k_sem_give(&indication_free);
	}
}

static void serve(void)
{
	struct written written;
	struct sample sample;

	k_sem_take(&work, K_FOREVER);
	if (atomic_clear(&link_ended)) {
		open_eda_sensor_disconnected(&sensor);
		run_or_halt(true);
		k_msgq_purge(&writes);
	}
	while (k_msgq_get(&writes, &written, K_NO_WAIT) == 0) {
		obey(&written);
	}
	while (k_msgq_get(&samples, &sample, K_NO_WAIT) == 0) {
		if (sensor.streaming) {
			pack(&sample);
		}
	}
	tell_status();
}

int main(void)
{
	if (open_eda_packet_init(&packet) < 0 ||
	    open_eda_sensor_init(&sensor, rates_mhz, ARRAY_SIZE(rates_mhz), 1000, sys_rand32_get()) < 0) {
		return -1;
	}
	if (!adc_is_ready_dt(&adc) || adc_channel_setup_dt(&adc) != 0 || bt_enable(NULL) != 0) {
		return -1;
	}
	settings_load(); /* the bonds */
	bt_gatt_cb_register(&gatt_callbacks);
	if (bt_conn_auth_cb_register(&pairing_callbacks) != 0) {
		return -1;
	}
	advertise(NULL);
	for (;;) {
		serve();
	}
}
