/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Open EDA over BLE, version 1: the sensor's side of PROTOCOL.md, for firmware.
 * Knows nothing of a Bluetooth stack, of a clock, or of how conductance is measured; those are yours.
 *
 * Header only. C99, and C++11. No allocation, no floating point, no libc function, no global state. It writes bytes one
 * by one, so it runs on either byte order. It never asserts: what cannot be done is a negative return, OPEN_EDA_E_...
 * It does not lock: call it for one object from one task at a time.
 *
 * The order of use:
 *     boot             open_eda_sensor_init (rates you have, a new boot_id), open_eda_packet_init (seq starts at 0)
 *     Info is read     open_eda_info_encode
 *     Control written  open_eda_control, indicate its 3 bytes, then sample while sensor.streaming is true
 *     each sample      open_eda_packet_add; when it returns 1, open_eda_packet_take and notify the bytes
 *     disconnected     open_eda_sensor_disconnected
 */
#ifndef OPEN_EDA_H
#define OPEN_EDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* -- UUIDs: as text, and as the bytes that stacks and advertisements want (little-endian; an initialiser, no braces) */

#define OPEN_EDA_SERVICE_UUID "d2200001-e050-4774-8f46-7cfd5c3f80b3"
#define OPEN_EDA_INFO_UUID "d2200002-e050-4774-8f46-7cfd5c3f80b3"
#define OPEN_EDA_DATA_UUID "d2200003-e050-4774-8f46-7cfd5c3f80b3"
#define OPEN_EDA_STATUS_UUID "d2200004-e050-4774-8f46-7cfd5c3f80b3"
#define OPEN_EDA_CONTROL_UUID "d2200005-e050-4774-8f46-7cfd5c3f80b3"

#define OPEN_EDA_SERVICE_UUID_LE \
    0xb3, 0x80, 0x3f, 0x5c, 0xfd, 0x7c, 0x46, 0x8f, 0x74, 0x47, 0x50, 0xe0, 0x01, 0x00, 0x20, 0xd2
#define OPEN_EDA_INFO_UUID_LE \
    0xb3, 0x80, 0x3f, 0x5c, 0xfd, 0x7c, 0x46, 0x8f, 0x74, 0x47, 0x50, 0xe0, 0x02, 0x00, 0x20, 0xd2
#define OPEN_EDA_DATA_UUID_LE \
    0xb3, 0x80, 0x3f, 0x5c, 0xfd, 0x7c, 0x46, 0x8f, 0x74, 0x47, 0x50, 0xe0, 0x03, 0x00, 0x20, 0xd2
#define OPEN_EDA_STATUS_UUID_LE \
    0xb3, 0x80, 0x3f, 0x5c, 0xfd, 0x7c, 0x46, 0x8f, 0x74, 0x47, 0x50, 0xe0, 0x04, 0x00, 0x20, 0xd2
#define OPEN_EDA_CONTROL_UUID_LE \
    0xb3, 0x80, 0x3f, 0x5c, 0xfd, 0x7c, 0x46, 0x8f, 0x74, 0x47, 0x50, 0xe0, 0x05, 0x00, 0x20, 0xd2

/* -- Numbers of the profile */

#define OPEN_EDA_VERSION 1u
#define OPEN_EDA_UNIT_NANOSIEMENS 0u
#define OPEN_EDA_DEFAULT_RATE_MHZ 8000u /* 8 Hz */
#define OPEN_EDA_DEFAULT_CLOCK_HZ 1000u
#define OPEN_EDA_DEFAULT_SAMPLES 4u /* samples in a packet: two packets a second at 8 Hz, and they fit an MTU of 27 */

#define OPEN_EDA_INFO_SIZE 15u
#define OPEN_EDA_STATUS_SIZE 1u
#define OPEN_EDA_RESPONSE_SIZE 3u
#define OPEN_EDA_DATA_HEAD_SIZE 8u
#define OPEN_EDA_MAX_SAMPLES 126u /* an attribute value has at most 512 bytes */
#define OPEN_EDA_DATA_MAX_SIZE (OPEN_EDA_DATA_HEAD_SIZE + 4u * OPEN_EDA_MAX_SAMPLES)

#define OPEN_EDA_OPEN INT32_MIN      /* a sample that could not be taken: the electrodes are open */
#define OPEN_EDA_SATURATED INT32_MAX /* a sample beyond the sensor's range */

/** Bits of Status. */
#define OPEN_EDA_STATUS_ELECTRODE_OFF 0x01u
#define OPEN_EDA_STATUS_SATURATED 0x02u
#define OPEN_EDA_STATUS_OVERRUN 0x04u

/** Commands of Control, and the first byte of their answer. */
#define OPEN_EDA_OP_START 0x01u
#define OPEN_EDA_OP_STOP 0x02u
#define OPEN_EDA_OP_SET_RATE 0x03u
#define OPEN_EDA_RESPONSE_CODE 0xf0u

/** Status codes of a response. */
#define OPEN_EDA_DONE 0u
#define OPEN_EDA_UNKNOWN_COMMAND 1u
#define OPEN_EDA_INVALID_PARAMETER 2u
#define OPEN_EDA_NOT_NOW 3u

/** Negative returns. */
#define OPEN_EDA_E_ARGUMENT (-1) /* a null pointer, or a number that the profile does not have */
#define OPEN_EDA_E_SPACE (-2)    /* the buffer is smaller than the message */
#define OPEN_EDA_E_STATE (-3)    /* not now: the packet is full (take it first), or not empty (a new limit must wait) */

/* -- Bytes */

static inline void open_eda_put_u16(uint8_t *out, uint16_t value)
{
    out[0] = (uint8_t)(value & 0xffu);
    out[1] = (uint8_t)((uint32_t)value >> 8);
}

static inline void open_eda_put_u32(uint8_t *out, uint32_t value)
{
    out[0] = (uint8_t)(value & 0xffu);
    out[1] = (uint8_t)((value >> 8) & 0xffu);
    out[2] = (uint8_t)((value >> 16) & 0xffu);
    out[3] = (uint8_t)((value >> 24) & 0xffu);
}

static inline uint32_t open_eda_get_u32(const uint8_t *in)
{
    return (uint32_t)in[0] | ((uint32_t)in[1] << 8) | ((uint32_t)in[2] << 16) | ((uint32_t)in[3] << 24);
}

/* -- Values */

/**
 * Conductance in nS of a resistance in ohm: 1e9 / ohm, rounded half up.
 *
 * @param saturated_ohm  at or below it (and at 0 ohm) the sensor cannot tell: OPEN_EDA_SATURATED; 0: no such bound
 * @param open_ohm       at or above it the electrodes are open: OPEN_EDA_OPEN; 0: the sensor cannot tell
 */
static inline int32_t open_eda_from_ohm(uint32_t ohm, uint32_t saturated_ohm, uint32_t open_ohm)
{
    if (ohm == 0u || ohm <= saturated_ohm) {
        return OPEN_EDA_SATURATED;
    }
    if (open_ohm != 0u && ohm >= open_ohm) {
        return OPEN_EDA_OPEN;
    }
    return (int32_t)((1000000000u + ohm / 2u) / ohm); /* at most 1e9 + 2^31, which fits 32 bits */
}

/** Status bits that a value speaks for: electrode off for OPEN_EDA_OPEN, saturated for OPEN_EDA_SATURATED, else 0. */
static inline uint8_t open_eda_status_of_value(int32_t value)
{
    if (value == OPEN_EDA_OPEN) {
        return (uint8_t)OPEN_EDA_STATUS_ELECTRODE_OFF;
    }
    return value == OPEN_EDA_SATURATED ? (uint8_t)OPEN_EDA_STATUS_SATURATED : (uint8_t)0u;
}

/** The one byte of Status. Notify it when it differs from the last one sent. */
static inline uint8_t open_eda_status_encode(bool electrode_off, bool saturated, bool overrun)
{
    return (uint8_t)((electrode_off ? OPEN_EDA_STATUS_ELECTRODE_OFF : 0u) |
                     (saturated ? OPEN_EDA_STATUS_SATURATED : 0u) | (overrun ? OPEN_EDA_STATUS_OVERRUN : 0u));
}

/* -- Info */

/** How to read the data. Clock and boot_id are for one boot; Set rate changes the rate. */
struct open_eda_info {
    uint32_t rate_mhz; /**< samples per 1000 s, more than 0 */
    uint32_t clock_hz; /**< ticks per second of the clock in Data, more than 0; 1000 or more is better */
    uint32_t boot_id;  /**< another one after every reset: a random number, or a counter in flash */
};

/** Value of Info. @return OPEN_EDA_INFO_SIZE, OPEN_EDA_E_ARGUMENT (a rate or a clock of 0) or OPEN_EDA_E_SPACE. */
static inline int open_eda_info_encode(const struct open_eda_info *info, uint8_t *out, size_t size)
{
    if (info == NULL || out == NULL || info->rate_mhz == 0u || info->clock_hz == 0u) {
        return OPEN_EDA_E_ARGUMENT;
    }
    if (size < OPEN_EDA_INFO_SIZE) {
        return OPEN_EDA_E_SPACE;
    }
    out[0] = (uint8_t)OPEN_EDA_VERSION;
    out[1] = 1u; /* channels: version 1 has one */
    open_eda_put_u32(out + 2, info->rate_mhz);
    out[6] = (uint8_t)OPEN_EDA_UNIT_NANOSIEMENS;
    open_eda_put_u32(out + 7, info->clock_hz);
    open_eda_put_u32(out + 11, info->boot_id);
    return (int)OPEN_EDA_INFO_SIZE;
}

/* -- Data */

/** The most samples that fit one notification at an ATT MTU; 0 below an MTU of 15. */
static inline uint8_t open_eda_max_samples(uint16_t mtu)
{
    const uint32_t overhead = 3u + OPEN_EDA_DATA_HEAD_SIZE; /* 3 bytes of ATT */
    const uint32_t n = mtu < overhead ? 0u : (mtu - overhead) / 4u;

    return (uint8_t)(n > OPEN_EDA_MAX_SAMPLES ? OPEN_EDA_MAX_SAMPLES : n);
}

/** A packet in the making. Yours to place (static memory will do); its fields are the functions' below. */
struct open_eda_packet {
    uint16_t seq;  /**< counter of the packet in the making */
    uint8_t n;     /**< samples in it so far */
    uint8_t limit; /**< samples it is to hold */
    uint8_t bytes[OPEN_EDA_DATA_MAX_SIZE];
};

/** Once per boot: no samples, seq 0, OPEN_EDA_DEFAULT_SAMPLES per packet. @return 0 or OPEN_EDA_E_ARGUMENT. */
static inline int open_eda_packet_init(struct open_eda_packet *packet)
{
    if (packet == NULL) {
        return OPEN_EDA_E_ARGUMENT;
    }
    packet->seq = 0u;
    packet->n = 0u;
    packet->limit = (uint8_t)OPEN_EDA_DEFAULT_SAMPLES;
    return 0;
}

/**
 * How many samples the next packet is to hold; not more than fit the connection's MTU (open_eda_max_samples).
 *
 * @return 0, OPEN_EDA_E_ARGUMENT (not 1 to 126), or OPEN_EDA_E_STATE while samples wait in it (n may differ between
 *         packets, so ask again after open_eda_packet_take)
 */
static inline int open_eda_packet_limit(struct open_eda_packet *packet, uint8_t samples)
{
    if (packet == NULL || samples == 0u || samples > OPEN_EDA_MAX_SAMPLES) {
        return OPEN_EDA_E_ARGUMENT;
    }
    if (packet->n != 0u) {
        return OPEN_EDA_E_STATE;
    }
    packet->limit = samples;
    return 0;
}

/**
 * Add a sample. Samples of one packet are equally spaced: before one that follows a hole, take the packet.
 *
 * @param ticks  sensor clock when THIS sample was taken, wrapping at 2^32; that of the first one goes into the packet
 * @param value  nS, or OPEN_EDA_OPEN, or OPEN_EDA_SATURATED
 * @return 1 when the packet is now full (take it), 0 when it is not, OPEN_EDA_E_ARGUMENT, or OPEN_EDA_E_STATE when it
 *         was full before and the sample was not added
 */
static inline int open_eda_packet_add(struct open_eda_packet *packet, uint32_t ticks, int32_t value)
{
    if (packet == NULL) {
        return OPEN_EDA_E_ARGUMENT;
    }
    if (packet->n >= packet->limit) {
        return OPEN_EDA_E_STATE;
    }
    if (packet->n == 0u) {
        open_eda_put_u32(packet->bytes + 4, ticks);
    }
    open_eda_put_u32(packet->bytes + OPEN_EDA_DATA_HEAD_SIZE + 4u * (size_t)packet->n, (uint32_t)value);
    packet->n = (uint8_t)(packet->n + 1u);
    return packet->n == packet->limit ? 1 : 0;
}

/**
 * Close the packet, full or not, and begin the next. This counts it: seq grows whether you then can send it or not, and
 * that is right, since a packet that was not sent must leave a hole in seq. Do not send it again later.
 *
 * @param bytes  set to the packet, which stays as it is until the next open_eda_packet_add
 * @return its size, 0 when no sample was in it (nothing is counted), or OPEN_EDA_E_ARGUMENT
 */
static inline int open_eda_packet_take(struct open_eda_packet *packet, const uint8_t **bytes)
{
    uint8_t n;

    if (packet == NULL || bytes == NULL) {
        return OPEN_EDA_E_ARGUMENT;
    }
    n = packet->n;
    *bytes = packet->bytes;
    if (n == 0u) {
        return 0;
    }
    packet->bytes[0] = (uint8_t)OPEN_EDA_VERSION;
    packet->bytes[1] = n;
    open_eda_put_u16(packet->bytes + 2, packet->seq);
    packet->seq = (uint16_t)((packet->seq + 1u) & 0xffffu);
    packet->n = 0u;
    return (int)(OPEN_EDA_DATA_HEAD_SIZE + 4u * (uint32_t)n);
}

/** Forget samples that wait in it, and count nothing: what was left of a stream that has been stopped. */
static inline void open_eda_packet_clear(struct open_eda_packet *packet)
{
    if (packet != NULL) {
        packet->n = 0u;
    }
}

/* -- Control */

/** A command as written by the host. */
struct open_eda_command {
    uint8_t op;        /**< its first byte, also where that is unknown; 0 of an empty write */
    uint32_t rate_mhz; /**< of OPEN_EDA_OP_SET_RATE; else 0 */
};

/**
 * Read what the host wrote, without regard to the sensor's state.
 *
 * @return OPEN_EDA_DONE, OPEN_EDA_UNKNOWN_COMMAND (an empty write, too) or OPEN_EDA_INVALID_PARAMETER (wrong length)
 */
static inline uint8_t open_eda_command_parse(const uint8_t *data, size_t size, struct open_eda_command *command)
{
    const size_t given = data == NULL ? 0u : size;
    const uint8_t op = given == 0u ? (uint8_t)0u : data[0];

    if (command != NULL) {
        command->op = op;
        command->rate_mhz = 0u;
    }
    if (op < OPEN_EDA_OP_START || op > OPEN_EDA_OP_SET_RATE) {
        return (uint8_t)OPEN_EDA_UNKNOWN_COMMAND;
    }
    if (given != (op == OPEN_EDA_OP_SET_RATE ? 5u : 1u)) {
        return (uint8_t)OPEN_EDA_INVALID_PARAMETER;
    }
    if (command != NULL && op == OPEN_EDA_OP_SET_RATE) {
        command->rate_mhz = open_eda_get_u32(data + 1);
    }
    return (uint8_t)OPEN_EDA_DONE;
}

/** The indication that answers a command: OPEN_EDA_RESPONSE_SIZE bytes. @return that size, or a negative error. */
static inline int open_eda_response_encode(uint8_t op, uint8_t status, uint8_t *out, size_t size)
{
    if (out == NULL) {
        return OPEN_EDA_E_ARGUMENT;
    }
    if (size < OPEN_EDA_RESPONSE_SIZE) {
        return OPEN_EDA_E_SPACE;
    }
    out[0] = (uint8_t)OPEN_EDA_RESPONSE_CODE;
    out[1] = op;
    out[2] = status;
    return (int)OPEN_EDA_RESPONSE_SIZE;
}

/** What commands act on. `rates` is yours, and must stay. */
struct open_eda_sensor {
    struct open_eda_info info;
    const uint32_t *rates; /**< rates in mHz that the sensor has, the first being that of the boot */
    size_t n_rates;
    bool streaming; /**< sample and send while this is true */
};

/** Once per boot. @return 0, or OPEN_EDA_E_ARGUMENT: no rate, a rate of 0, a clock of 0. */
static inline int open_eda_sensor_init(struct open_eda_sensor *sensor, const uint32_t *rates, size_t n_rates,
                                       uint32_t clock_hz, uint32_t boot_id)
{
    size_t i;

    if (sensor == NULL || rates == NULL || n_rates == 0u || clock_hz == 0u) {
        return OPEN_EDA_E_ARGUMENT;
    }
    for (i = 0u; i < n_rates; i++) {
        if (rates[i] == 0u) {
            return OPEN_EDA_E_ARGUMENT;
        }
    }
    sensor->info.rate_mhz = rates[0];
    sensor->info.clock_hz = clock_hz;
    sensor->info.boot_id = boot_id;
    sensor->rates = rates;
    sensor->n_rates = n_rates;
    sensor->streaming = false;
    return 0;
}

static inline uint8_t open_eda_set_rate(struct open_eda_sensor *sensor, uint32_t rate_mhz)
{
    size_t i;

    if (sensor->streaming) {
        return (uint8_t)OPEN_EDA_NOT_NOW;
    }
    for (i = 0u; i < sensor->n_rates; i++) {
        if (sensor->rates[i] == rate_mhz) {
            sensor->info.rate_mhz = rate_mhz;
            return (uint8_t)OPEN_EDA_DONE;
        }
    }
    return (uint8_t)OPEN_EDA_INVALID_PARAMETER;
}

/**
 * Obey a write to Control: changes `streaming` or `info.rate_mhz`, and writes the answer, which you indicate.
 *
 * A write that is refused changes nothing; Start when started and Stop when stopped are answered with done.
 * @param response  OPEN_EDA_RESPONSE_SIZE bytes
 * @return OPEN_EDA_RESPONSE_SIZE whatever the answer says, or OPEN_EDA_E_ARGUMENT
 */
static inline int open_eda_control(struct open_eda_sensor *sensor, const uint8_t *data, size_t size, uint8_t *response)
{
    struct open_eda_command command;
    uint8_t status;

    if (sensor == NULL || response == NULL) {
        return OPEN_EDA_E_ARGUMENT;
    }
    status = open_eda_command_parse(data, size, &command);
    if (status == OPEN_EDA_DONE && command.op == OPEN_EDA_OP_SET_RATE) {
        status = open_eda_set_rate(sensor, command.rate_mhz);
    } else if (status == OPEN_EDA_DONE) {
        sensor->streaming = command.op == OPEN_EDA_OP_START;
    }
    return open_eda_response_encode(command.op, status, response, OPEN_EDA_RESPONSE_SIZE);
}

/** The connection has ended, and the stream with it; rate, boot_id, seq and clock go on. */
static inline void open_eda_sensor_disconnected(struct open_eda_sensor *sensor)
{
    if (sensor != NULL) {
        sensor->streaming = false;
    }
}

#ifdef __cplusplus
}
#endif

#endif /* OPEN_EDA_H */
