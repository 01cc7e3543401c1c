/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Lets tests/test_firmware.py call open_eda.h: one request a line on stdin, one answer a line on stdout.
 * Knows nothing of what is right; the Python codec does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "open_eda.h"

static const uint32_t RATES[] = {8000u, 4000u, 2000u};

static struct open_eda_packet packet;
static struct open_eda_sensor sensor;

static const char *word(void)
{
    const char *found = strtok(NULL, " \n");

    return found == NULL ? "" : found;
}

static uint32_t number(void)
{
    return (uint32_t)strtoul(word(), NULL, 10);
}

static void print_hex(const uint8_t *bytes, int size)
{
    int i;

    for (i = 0; i < size; i++) {
        printf("%02x", bytes[i]);
    }
}

/* Exactly as many bytes as written, so that the address sanitizer sees one read too many. */
static uint8_t *unhex(const char *text, size_t *size)
{
    uint8_t *bytes;
    size_t i;

    *size = strlen(text) / 2u;
    bytes = malloc(*size + (*size == 0u));
    for (i = 0u; i < *size; i++) {
        const char digits[3] = {text[2u * i], text[2u * i + 1u], '\0'};
        bytes[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return bytes;
}

static void print_or_error(const uint8_t *bytes, int size)
{
    if (size < 0) {
        printf("error %d", size);
    } else {
        print_hex(bytes, size);
    }
}

static void do_info(void)
{
    struct open_eda_info info;
    size_t size;
    uint8_t *out;

    info.rate_mhz = number();
    info.clock_hz = number();
    info.boot_id = number();
    size = number();
    out = malloc(size + (size == 0u));
    print_or_error(out, open_eda_info_encode(&info, out, size));
    free(out);
}

/* add TICKS VALUE -> what it returned */
static void do_add(void)
{
    const uint32_t ticks = number();

    printf("%d", open_eda_packet_add(&packet, ticks, (int32_t)strtol(word(), NULL, 10)));
}

static void do_take(void)
{
    const uint8_t *bytes = NULL;

    print_or_error(bytes, open_eda_packet_take(&packet, &bytes));
}

/* data SEQ TICKS VALUE... -> the packet, by way of add and take; every ticks but the first is another */
static void do_data(void)
{
    const char *text;
    const uint8_t *bytes = NULL;
    uint32_t ticks;
    int size;

    open_eda_packet_init(&packet);
    open_eda_packet_limit(&packet, OPEN_EDA_MAX_SAMPLES);
    packet.seq = (uint16_t)number();
    ticks = number();
    for (text = word(); *text != '\0'; text = word()) {
        open_eda_packet_add(&packet, ticks, (int32_t)strtol(text, NULL, 10));
        ticks += 125u;
    }
    size = open_eda_packet_take(&packet, &bytes);
    print_hex(bytes, size);
}

static void do_parse(void)
{
    struct open_eda_command command;
    size_t size;
    uint8_t *data = unhex(word(), &size);
    const unsigned status = open_eda_command_parse(data, size, &command);

    printf("%u %u %lu", status, command.op, (unsigned long)command.rate_mhz);
    free(data);
}

static void do_write(void)
{
    uint8_t response[OPEN_EDA_RESPONSE_SIZE];
    size_t size;
    uint8_t *data = unhex(word(), &size);
    const int length = open_eda_control(&sensor, data, size, response);

    print_or_error(response, length);
    printf(" %d %lu", sensor.streaming, (unsigned long)sensor.info.rate_mhz);
    free(data);
}

static void do_uuids(void)
{
    static const char *const texts[] = {OPEN_EDA_SERVICE_UUID, OPEN_EDA_INFO_UUID, OPEN_EDA_DATA_UUID,
                                        OPEN_EDA_STATUS_UUID, OPEN_EDA_CONTROL_UUID};
    static const uint8_t bytes[][16] = {{OPEN_EDA_SERVICE_UUID_LE},
                                        {OPEN_EDA_INFO_UUID_LE},
                                        {OPEN_EDA_DATA_UUID_LE},
                                        {OPEN_EDA_STATUS_UUID_LE},
                                        {OPEN_EDA_CONTROL_UUID_LE}};
    size_t i;

    for (i = 0u; i < sizeof texts / sizeof texts[0]; i++) {
        printf("%s ", texts[i]);
        print_hex(bytes[i], 16);
        printf(" ");
    }
}

/* What a caller can do wrong: each of these must return an error, and touch nothing. */
static void do_misuse(void)
{
    static const uint32_t zero[] = {8000u, 0u};
    const uint8_t *bytes;
    uint8_t out[OPEN_EDA_INFO_SIZE];
    struct open_eda_info info = {8000u, 1000u, 1u};

    printf("%d ", open_eda_info_encode(NULL, out, sizeof out));
    printf("%d ", open_eda_info_encode(&info, NULL, sizeof out));
    printf("%d ", open_eda_packet_init(NULL));
    printf("%d ", open_eda_packet_limit(NULL, 1u));
    printf("%d ", open_eda_packet_add(NULL, 0u, 0));
    printf("%d ", open_eda_packet_take(NULL, &bytes));
    printf("%d ", open_eda_packet_take(&packet, NULL));
    printf("%d ", open_eda_response_encode(1u, 0u, NULL, 3u));
    printf("%d ", open_eda_control(NULL, out, 1u, out));
    printf("%d ", open_eda_control(&sensor, out, 1u, NULL));
    printf("%d ", open_eda_sensor_init(NULL, RATES, 1u, 1000u, 0u));
    printf("%d ", open_eda_sensor_init(&sensor, NULL, 1u, 1000u, 0u));
    printf("%d ", open_eda_sensor_init(&sensor, RATES, 0u, 1000u, 0u));
    printf("%d ", open_eda_sensor_init(&sensor, RATES, 1u, 0u, 0u));
    printf("%d ", open_eda_sensor_init(&sensor, zero, 2u, 1000u, 0u));
    open_eda_packet_clear(NULL);
    open_eda_sensor_disconnected(NULL);
    printf("%u", open_eda_command_parse(NULL, 5u, NULL));
}

static void answer(const char *verb)
{
    if (strcmp(verb, "info") == 0) {
        do_info();
    } else if (strcmp(verb, "data") == 0) {
        do_data();
    } else if (strcmp(verb, "packet") == 0) { /* packet SEQ */
        printf("%d", open_eda_packet_init(&packet));
        packet.seq = (uint16_t)number();
    } else if (strcmp(verb, "limit") == 0) {
        printf("%d", open_eda_packet_limit(&packet, (uint8_t)number()));
    } else if (strcmp(verb, "add") == 0) {
        do_add();
    } else if (strcmp(verb, "take") == 0) {
        do_take();
    } else if (strcmp(verb, "clear") == 0) {
        open_eda_packet_clear(&packet);
        printf("0");
    } else if (strcmp(verb, "mtu") == 0) {
        printf("%u", open_eda_max_samples((uint16_t)number()));
    } else if (strcmp(verb, "status") == 0) {
        const bool off = number() != 0u, saturated = number() != 0u;
        printf("%02x", open_eda_status_encode(off, saturated, number() != 0u));
    } else if (strcmp(verb, "value") == 0) {
        printf("%02x", open_eda_status_of_value((int32_t)strtol(word(), NULL, 10)));
    } else if (strcmp(verb, "ohm") == 0) {
        const uint32_t ohm = number(), saturated = number();
        printf("%ld", (long)open_eda_from_ohm(ohm, saturated, number()));
    } else if (strcmp(verb, "parse") == 0) {
        do_parse();
    } else if (strcmp(verb, "response") == 0) {
        uint8_t out[OPEN_EDA_RESPONSE_SIZE];
        const uint8_t op = (uint8_t)number(), status = (uint8_t)number();
        print_or_error(out, open_eda_response_encode(op, status, out, number()));
    } else if (strcmp(verb, "boot") == 0) { /* boot BOOT_ID */
        printf("%d", open_eda_sensor_init(&sensor, RATES, 3u, OPEN_EDA_DEFAULT_CLOCK_HZ, number()));
    } else if (strcmp(verb, "write") == 0) {
        do_write();
    } else if (strcmp(verb, "disconnected") == 0) {
        open_eda_sensor_disconnected(&sensor);
        printf("%d %lu", sensor.streaming, (unsigned long)sensor.info.rate_mhz);
    } else if (strcmp(verb, "uuids") == 0) {
        do_uuids();
    } else if (strcmp(verb, "misuse") == 0) {
        do_misuse();
    } else {
        printf("unknown request");
    }
}

int main(void)
{
    static char line[8192]; /* 126 samples of 12 characters, and more */

    while (fgets(line, sizeof line, stdin) != NULL) {
        const char *verb = strtok(line, " \n");

        answer(verb == NULL ? "" : verb);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
