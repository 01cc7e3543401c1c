/* SPDX-License-Identifier: Apache-2.0
 * Stub: the part of NimBLE-Arduino 2 that the sketch uses. Proves nothing about the real one. */
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#define BLE_HS_IO_NO_INPUT_OUTPUT 3
#define BLE_HS_CONN_HANDLE_NONE 0xffff

namespace NIMBLE_PROPERTY {
enum { READ = 2, WRITE = 8, NOTIFY = 16, INDICATE = 32, READ_ENC = 512, WRITE_ENC = 4096 };
}

struct NimBLEAddress {};

struct NimBLEConnInfo {
    uint16_t getConnHandle() const;
    NimBLEAddress getIdAddress() const;
    bool isBonded() const;
    bool isEncrypted() const;
};

struct NimBLEAttValue {
    size_t size() const;
    const uint8_t *data() const;
};

class NimBLECharacteristic;
class NimBLEServer;

struct NimBLECharacteristicCallbacks {
    virtual ~NimBLECharacteristicCallbacks() {}
    virtual void onWrite(NimBLECharacteristic *characteristic, NimBLEConnInfo &info);
};

class NimBLECharacteristic {
  public:
    NimBLEAttValue getValue() const;
    void setValue(const uint8_t *value, size_t size);
    void setValue(const char *value);
    bool notify(const uint8_t *value, size_t size, uint16_t connection = BLE_HS_CONN_HANDLE_NONE) const;
    bool indicate(const uint8_t *value, size_t size, uint16_t connection = BLE_HS_CONN_HANDLE_NONE) const;
    void setCallbacks(NimBLECharacteristicCallbacks *callbacks);
};

class NimBLEService {
  public:
    NimBLECharacteristic *createCharacteristic(const char *uuid, uint32_t properties, uint16_t max_size = 512);
    bool start();
};

struct NimBLEServerCallbacks {
    virtual ~NimBLEServerCallbacks() {}
    virtual void onConnect(NimBLEServer *server, NimBLEConnInfo &info);
    virtual void onDisconnect(NimBLEServer *server, NimBLEConnInfo &info, int reason);
    virtual void onMTUChange(uint16_t mtu, NimBLEConnInfo &info);
    virtual void onAuthenticationComplete(NimBLEConnInfo &info);
};

class NimBLEServer {
  public:
    NimBLEService *createService(const char *uuid);
    void setCallbacks(NimBLEServerCallbacks *callbacks, bool delete_them = true);
    void advertiseOnDisconnect(bool enable);
    bool disconnect(uint16_t connection) const;
};

class NimBLEAdvertising {
  public:
    bool addServiceUUID(const char *uuid);
    void enableScanResponse(bool enable);
    bool setName(const std::string &name);
    bool start(uint32_t duration = 0);
};

class NimBLEDevice {
  public:
    static bool init(const std::string &name);
    static void setSecurityAuth(bool bonding, bool mitm, bool secure_connections);
    static void setSecurityIOCap(uint8_t capability);
    static bool startSecurity(uint16_t connection);
    static bool isBonded(const NimBLEAddress &address);
    static NimBLEServer *createServer();
    static NimBLEServer *getServer();
    static NimBLEAdvertising *getAdvertising();
};
