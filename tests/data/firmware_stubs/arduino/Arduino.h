/* SPDX-License-Identifier: Apache-2.0
 * Stub: the part of Arduino-ESP32 that the sketch uses. Proves nothing about the real one. */
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

typedef struct QueueDefinition *QueueHandle_t;
typedef int BaseType_t;
typedef uint32_t TickType_t;
#define pdTRUE 1
QueueHandle_t xQueueCreate(unsigned length, unsigned item_size);
BaseType_t xQueueSend(QueueHandle_t queue, const void *item, TickType_t wait);
BaseType_t xQueueReceive(QueueHandle_t queue, void *item, TickType_t wait);
BaseType_t xQueueReset(QueueHandle_t queue);

unsigned long millis();
unsigned long micros();
void delay(uint32_t ms);
uint32_t esp_random();
void analogReadResolution(uint8_t bits);
uint32_t analogReadMilliVolts(uint8_t pin);
