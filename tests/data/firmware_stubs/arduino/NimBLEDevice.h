// What the sketch uses of NimBLE-Arduino 2.x, declared and no more: to check its syntax and types, not to run it.
#pragma once
#include "Arduino.h"

#define BLE_HS_IO_NO_INPUT_OUTPUT 0x03

namespace NIMBLE_PROPERTY {
enum : uint32_t { READ = 0x0002, READ_ENC = 0x0200, WRITE = 0x0008, WRITE_ENC = 0x1000, NOTIFY = 0x0010, INDICATE = 0x0020 };
}

class NimBLEConnInfo {
  public:
    uint16_t getConnHandle() const;
    bool isBonded() const;
    bool isEncrypted() const;
};

class NimBLEAttValue {
  public:
    size_t size() const;
    const uint8_t *data() const;
};

class NimBLECharacteristic;
class NimBLEServer;

class NimBLECharacteristicCallbacks {
  public:
    virtual ~NimBLECharacteristicCallbacks() {}
    virtual void onWrite(NimBLECharacteristic *, NimBLEConnInfo &) {}
};

class NimBLECharacteristic {
  public:
    NimBLEAttValue getValue() const;
    void setValue(const uint8_t *data, size_t size);
    bool notify();
    bool notify(const uint8_t *data, size_t size);
    bool indicate(const uint8_t *data, size_t size);
    void setCallbacks(NimBLECharacteristicCallbacks *callbacks);
};

class NimBLEService {
  public:
    NimBLECharacteristic *createCharacteristic(const char *uuid, uint32_t properties, uint16_t max_size = 512);
};

class NimBLEServerCallbacks {
  public:
    virtual ~NimBLEServerCallbacks() {}
    virtual void onConnect(NimBLEServer *, NimBLEConnInfo &) {}
    virtual void onDisconnect(NimBLEServer *, NimBLEConnInfo &, int) {}
    virtual void onMTUChange(uint16_t, NimBLEConnInfo &) {}
    virtual void onAuthenticationComplete(NimBLEConnInfo &) {}
};

class NimBLEServer {
  public:
    void setCallbacks(NimBLEServerCallbacks *callbacks, bool delete_callbacks);
    NimBLEService *createService(const char *uuid);
    bool disconnect(uint16_t handle);
};

class NimBLEAdvertising {
  public:
    bool addServiceUUID(const char *uuid);
    void enableScanResponse(bool enable);
    bool setName(const char *name);
};

class NimBLEDevice {
  public:
    static bool init(const char *name);
    static void setSecurityAuth(bool bonding, bool mitm, bool secure);
    static void setSecurityIOCap(uint8_t capability);
    static NimBLEServer *createServer();
    static NimBLEServer *getServer();
    static NimBLEAdvertising *getAdvertising();
    static bool startAdvertising();
    static bool startSecurity(uint16_t handle);
};
