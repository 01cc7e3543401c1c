/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Open EDA from an ESP32, for Arduino-ESP32 3.x and NimBLE-Arduino 2.x: a sketch to start from, see README.md.
 * Knows nothing of your board but an ADC pin and the numbers of your front end below.
 *
 * Put open_eda.h beside this file. loop() alone touches `sensor` and `packet`: NimBLE's callbacks run in a task of its
 * own, and only queue what they heard.
 */
#include <NimBLEDevice.h>

#include "open_eda.h"

/* Front end: constant voltage on the skin, the current through it turned into a voltage by an amplifier. */
static const int ADC_PIN = 34; /* of ADC1: ADC2 does not work beside Wi-Fi */
static const uint32_t EXCITATION_MV = 500;
static const uint32_t FEEDBACK_KOHM = 200;
static const uint32_t SATURATED_MV = 2400; /* the ESP32's ADC bends above 2.45 V */
static const int32_t OPEN_BELOW_NS = 1000; /* it sees nothing below 0.1 V; an external ADC does far better */
static const uint32_t READINGS = 64;       /* averaged for one sample */

static const uint32_t PAIRING_WINDOW_MS = 60000;
static const uint32_t RATES_MHZ[] = {8000, 4000, 2000};
static const uint16_t SMALLEST_MTU = 23;

struct Written {
    size_t size; /* that of the write, though only a command's bytes are kept */
    uint8_t data[5];
};

static QueueHandle_t writes;
static volatile bool linkEnded = false;
static volatile uint16_t mtu = SMALLEST_MTU;

static open_eda_sensor sensor;
static open_eda_packet packet;
static uint8_t statusTold = 0xff;
static uint32_t nextUs = 0;

static NimBLECharacteristic *infoValue, *dataValue, *statusValue, *controlValue;

/* -- NimBLE's task */

class Link : public NimBLEServerCallbacks {
    void onConnect(NimBLEServer *, NimBLEConnInfo &info) override {
        /* A sensor takes up a bond that it has; a new one it makes in its first minute only, when its wearer has it
         * in hand. */
        if (info.isBonded() || millis() < PAIRING_WINDOW_MS) {
            NimBLEDevice::startSecurity(info.getConnHandle());
        }
    }

    void onAuthenticationComplete(NimBLEConnInfo &info) override {
        if (!info.isEncrypted()) {
            NimBLEDevice::getServer()->disconnect(info.getConnHandle());
        }
    }

    void onMTUChange(uint16_t value, NimBLEConnInfo &) override { mtu = value; }

    void onDisconnect(NimBLEServer *, NimBLEConnInfo &, int) override {
        mtu = SMALLEST_MTU;
        linkEnded = true;
        NimBLEDevice::startAdvertising();
    }
};

class Control : public NimBLECharacteristicCallbacks {
    void onWrite(NimBLECharacteristic *characteristic, NimBLEConnInfo &) override {
        const NimBLEAttValue value = characteristic->getValue();
        Written written = {value.size(), {0}};
        memcpy(written.data, value.data(), value.size() < sizeof written.data ? value.size() : sizeof written.data);
        xQueueSend(writes, &written, 0);
    }
};

static Link linkCallbacks;
static Control controlCallbacks;

/* -- loop()'s task */

static int32_t conductanceNs() {
    uint32_t millivolts = 0;
    for (uint32_t i = 0; i < READINGS; i++) {
        millivolts += analogReadMilliVolts(ADC_PIN);
    }
    millivolts /= READINGS;
    if (millivolts >= SATURATED_MV) {
        return OPEN_EDA_SATURATED;
    }
    const int32_t ns = (int32_t)((uint64_t)millivolts * 1000000u / (EXCITATION_MV * FEEDBACK_KOHM));
    return ns < OPEN_BELOW_NS ? OPEN_EDA_OPEN : ns;
}

static void sendPacket() {
    const uint8_t *bytes;
    const int size = open_eda_packet_take(&packet, &bytes);
    if (size > 0) { /* where it cannot be sent it is gone, and seq shows the host that it is */
        dataValue->notify(bytes, (size_t)size);
    }
}

static void takeSample() {
    const uint32_t ticks = millis();
    const int32_t value = conductanceNs();
    if (packet.n == 0) {
        const uint8_t fits = open_eda_max_samples(mtu);
        open_eda_packet_limit(&packet, fits < OPEN_EDA_DEFAULT_SAMPLES ? fits : OPEN_EDA_DEFAULT_SAMPLES);
    }
    if (open_eda_packet_add(&packet, ticks, value) == 1) {
        sendPacket();
    }
    const uint8_t status = open_eda_status_of_value(value);
    if (status != statusTold) {
        statusTold = status;
        statusValue->setValue(&status, sizeof status);
        statusValue->notify();
    }
}

static void publishInfo() {
    uint8_t value[OPEN_EDA_INFO_SIZE];
    if (open_eda_info_encode(&sensor.info, value, sizeof value) > 0) {
        infoValue->setValue(value, sizeof value);
    }
}

static void obey(const Written &written) {
    uint8_t response[OPEN_EDA_RESPONSE_SIZE];
    const bool wasStreaming = sensor.streaming;
    open_eda_control(&sensor, written.data, written.size, response);
    publishInfo();
    if (sensor.streaming && !wasStreaming) {
        open_eda_packet_clear(&packet);
        nextUs = micros();
    }
    controlValue->indicate(response, sizeof response);
}

/* -- Arduino */

void setup() {
    writes = xQueueCreate(4, sizeof(Written));
    open_eda_packet_init(&packet);
    open_eda_sensor_init(&sensor, RATES_MHZ, sizeof RATES_MHZ / sizeof RATES_MHZ[0], 1000, esp_random());

    NimBLEDevice::init("Open EDA");
    NimBLEDevice::setSecurityAuth(true, false, true); /* bond, no passkey, LE Secure Connections: Just Works */
    NimBLEDevice::setSecurityIOCap(BLE_HS_IO_NO_INPUT_OUTPUT);
    NimBLEServer *server = NimBLEDevice::createServer();
    server->setCallbacks(&linkCallbacks, false);

    NimBLEService *service = server->createService(OPEN_EDA_SERVICE_UUID);
    infoValue = service->createCharacteristic(OPEN_EDA_INFO_UUID, NIMBLE_PROPERTY::READ);
    dataValue = service->createCharacteristic(OPEN_EDA_DATA_UUID, NIMBLE_PROPERTY::NOTIFY, OPEN_EDA_DATA_MAX_SIZE);
    statusValue = service->createCharacteristic(
        OPEN_EDA_STATUS_UUID, NIMBLE_PROPERTY::READ | NIMBLE_PROPERTY::READ_ENC | NIMBLE_PROPERTY::NOTIFY);
    controlValue = service->createCharacteristic(
        OPEN_EDA_CONTROL_UUID, NIMBLE_PROPERTY::WRITE | NIMBLE_PROPERTY::WRITE_ENC | NIMBLE_PROPERTY::INDICATE);
    controlValue->setCallbacks(&controlCallbacks);
    publishInfo();

    NimBLEAdvertising *advertising = NimBLEDevice::getAdvertising();
    advertising->addServiceUUID(OPEN_EDA_SERVICE_UUID);
    advertising->enableScanResponse(true); /* the UUID fills the advertisement, the name goes here */
    advertising->setName("Open EDA");
    NimBLEDevice::startAdvertising();
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
    if (sensor.streaming && (int32_t)(micros() - nextUs) >= 0) {
        nextUs += 1000000000u / sensor.info.rate_mhz; /* not from now: a late sample must not delay all that follow */
        takeSample();
    }
    delay(1);
}
