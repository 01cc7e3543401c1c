/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Open EDA from an ESP32, for Arduino-ESP32 3.x and NimBLE-Arduino 2.x: a sketch to start from, see README.md.
 * Knows nothing of your board but an ADC pin and the two numbers of your front end below.
 *
 * Put open_eda.h beside this file. loop() alone touches `sensor` and `packet`: NimBLE's callbacks run in a task of
 * their own, and only leave word of what they heard.
 */
#include <NimBLEDevice.h>

#include "open_eda.h"

/* Front end: constant voltage on the skin, the current through it turned into a voltage by an amplifier. */
static const uint8_t ADC_PIN = 34; /* of ADC1: ADC2 does not work beside Wi-Fi */
static const uint32_t EXCITATION_MV = 500;
static const uint32_t FEEDBACK_KOHM = 200;
static const uint32_t OFFSET_UV = 150000;     /* lifts the output off the dead end of the ADC; subtracted again */
static const uint32_t SATURATED_UV = 2400000; /* the ESP32's ADC bends above it */
static const int32_t OPEN_BELOW_NS = 50;      /* 20 Mohm; must lie above your board's leakage, offset and noise */
static const uint32_t READINGS = 64;          /* averaged for one sample */

static const uint32_t PAIRING_WINDOW_MS = 60000;
static const uint32_t RATES_MHZ[] = {8000, 4000, 2000};
static const size_t KEPT = 6; /* a command has 5 bytes at most; a longer write is cut, and is as wrong as before */

struct Written {
    size_t size;
    uint8_t data[KEPT];
};

static QueueHandle_t writes;
static volatile bool linkEnded = false;
static volatile bool encrypted = false;
static volatile uint16_t mtu = 23;

static open_eda_sensor sensor;
static open_eda_packet packet;
static uint8_t statusNow = 0;
static uint8_t statusTold = 0;
static bool dropped = false;
static uint32_t nextUs = 0;

static NimBLECharacteristic *infoValue, *dataValue, *statusValue, *controlValue;

/* -- NimBLE's task */

class Link : public NimBLEServerCallbacks {
    void onConnect(NimBLEServer *server, NimBLEConnInfo &info) override {
        /* NimBLE cannot refuse a Just Works pairing: after the first minute strangers are sent away altogether. */
        if (millis() > PAIRING_WINDOW_MS && !NimBLEDevice::isBonded(info.getIdAddress())) {
            server->disconnect(info.getConnHandle());
            return;
        }
        /* Older NimBLE lets a host subscribe on an open link, so that it never hears that it must pair: ask for it. */
        NimBLEDevice::startSecurity(info.getConnHandle());
    }

    void onAuthenticationComplete(NimBLEConnInfo &info) override {
        encrypted = info.isEncrypted();
        if (!encrypted) {
            NimBLEDevice::getServer()->disconnect(info.getConnHandle());
        }
    }

    void onMTUChange(uint16_t now, NimBLEConnInfo &) override {
        mtu = now;
    }

    void onDisconnect(NimBLEServer *, NimBLEConnInfo &, int) override {
        encrypted = false;
        mtu = 23;
        linkEnded = true;
    }
};

class Control : public NimBLECharacteristicCallbacks {
    void onWrite(NimBLECharacteristic *characteristic, NimBLEConnInfo &) override {
        const NimBLEAttValue value = characteristic->getValue();
        Written written = {value.size() < KEPT ? value.size() : KEPT, {0}};

        memcpy(written.data, value.data(), written.size);
        xQueueSend(writes, &written, 0);
    }
};

/* -- loop() */

static uint32_t periodUs() {
    return 1000000000u / sensor.info.rate_mhz;
}

static void showInfo() {
    uint8_t value[OPEN_EDA_INFO_SIZE];
    const int size = open_eda_info_encode(&sensor.info, value, sizeof value);

    if (size > 0) {
        infoValue->setValue(value, (size_t)size);
    }
}

static void tellStatus() {
    const uint8_t now = (uint8_t)(statusNow | (dropped ? OPEN_EDA_STATUS_OVERRUN : 0u));

    if (now == statusTold) {
        return;
    }
    statusValue->setValue(&now, sizeof now); /* for whoever reads it */
    if (encrypted && statusValue->notify(&now, sizeof now)) {
        statusTold = now;
        dropped = false; /* it has been said: the next Status is without it */
    }
}

static void sendPacket() {
    const uint8_t *bytes;
    const int size = open_eda_packet_take(&packet, &bytes);

    if (size > 0 && encrypted) { /* where it cannot be sent it is gone, and seq shows the host that it is */
        dataValue->notify(bytes, (size_t)size);
    }
}

static int32_t conductance() {
    uint32_t uv = 0;

    for (uint32_t i = 0; i < READINGS; i++) {
        uv += analogReadMilliVolts(ADC_PIN) * 1000u;
    }
    uv /= READINGS;
    if (uv >= SATURATED_UV) {
        return OPEN_EDA_SATURATED;
    }
    const uint32_t signalUv = uv > OFFSET_UV ? uv - OFFSET_UV : 0u;
    const int32_t ns = (int32_t)((uint64_t)signalUv * 1000u / (EXCITATION_MV * FEEDBACK_KOHM));

    return ns < OPEN_BELOW_NS ? OPEN_EDA_OPEN : ns;
}

static void takeSample() {
    if (packet.n == 0) {
        const uint8_t most = open_eda_max_samples(mtu);
        open_eda_packet_limit(&packet, most < OPEN_EDA_DEFAULT_SAMPLES ? most : (uint8_t)OPEN_EDA_DEFAULT_SAMPLES);
    }
    const uint32_t ticks = millis(); /* runs on through everything, and wraps at 2^32 */
    const int32_t value = conductance();

    if (open_eda_packet_add(&packet, ticks, value) == 1) {
        sendPacket();
    }
    statusNow = open_eda_status_of_value(value);
}

static void obey(const Written &written) {
    const bool was = sensor.streaming;
    uint8_t response[OPEN_EDA_RESPONSE_SIZE];

    open_eda_control(&sensor, written.data, written.size, response);
    if (sensor.streaming && !was) {
        open_eda_packet_clear(&packet);
        nextUs = micros();
    }
    showInfo();
    controlValue->indicate(response, sizeof response);
}

static void keepUp() {
    const uint32_t late = micros() - nextUs; /* modulo 2^32; not yet due where the top bit is set */

    if ((int32_t)late < 0) {
        return;
    }
    if (late >= periodUs()) { /* held up: those samples are lost; the next one begins another packet */
        sendPacket();
        dropped = true;
        nextUs += late / periodUs() * periodUs();
    }
    nextUs += periodUs();
    takeSample();
}

void setup() {
    analogReadResolution(12);
    writes = xQueueCreate(4, sizeof(Written));
    open_eda_packet_init(&packet);
    open_eda_sensor_init(&sensor, RATES_MHZ, 3, 1000, esp_random());

    NimBLEDevice::init("Open EDA");
    NimBLEDevice::setSecurityAuth(true, false, true); /* bond, no MITM protection (Just Works), Secure Connections */
    NimBLEDevice::setSecurityIOCap(BLE_HS_IO_NO_INPUT_OUTPUT);

    NimBLEServer *server = NimBLEDevice::createServer();
    server->setCallbacks(new Link());
    server->advertiseOnDisconnect(true);

    NimBLEService *service = server->createService(OPEN_EDA_SERVICE_UUID);
    infoValue = service->createCharacteristic(OPEN_EDA_INFO_UUID, NIMBLE_PROPERTY::READ);
    /* Nobody can read Data: READ_ENC is what NimBLE goes by when it lets a host subscribe, and when it notifies. */
    dataValue = service->createCharacteristic(
        OPEN_EDA_DATA_UUID, NIMBLE_PROPERTY::NOTIFY | NIMBLE_PROPERTY::READ_ENC, OPEN_EDA_DATA_MAX_SIZE);
    statusValue = service->createCharacteristic(
        OPEN_EDA_STATUS_UUID, NIMBLE_PROPERTY::READ | NIMBLE_PROPERTY::READ_ENC | NIMBLE_PROPERTY::NOTIFY);
    controlValue = service->createCharacteristic(
        OPEN_EDA_CONTROL_UUID, NIMBLE_PROPERTY::WRITE | NIMBLE_PROPERTY::WRITE_ENC | NIMBLE_PROPERTY::INDICATE);
    controlValue->setCallbacks(new Control());
    statusValue->setValue(&statusNow, sizeof statusNow);
    showInfo();
    service->start();

    NimBLEService *information = server->createService("180A");
    information->createCharacteristic("2A25", NIMBLE_PROPERTY::READ)->setValue("0001"); /* serial number */
    information->start();

    NimBLEAdvertising *advertising = NimBLEDevice::getAdvertising();
    advertising->addServiceUUID(OPEN_EDA_SERVICE_UUID);
    advertising->enableScanResponse(true);
    advertising->setName("Open EDA");
    advertising->start();
}

void loop() {
    Written written;

    if (linkEnded) {
        linkEnded = false;
        open_eda_sensor_disconnected(&sensor);
        xQueueReset(writes);
    }
    while (xQueueReceive(writes, &written, 0) == pdTRUE) {
        obey(written);
    }
    if (sensor.streaming) {
        keepUp();
    }
    tellStatus();
    delay(1);
}
