// What the sketch uses of Arduino-ESP32 3.x, declared and no more: to check its syntax and types, not to run it.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

uint32_t millis();
uint32_t micros();
void delay(uint32_t ms);
uint32_t analogReadMilliVolts(uint8_t pin);
uint32_t esp_random();

typedef struct QueueDefinition *QueueHandle_t;
typedef int BaseType_t;
typedef unsigned int UBaseType_t;
typedef uint32_t TickType_t;
#define pdTRUE ((BaseType_t)1)
QueueHandle_t xQueueCreate(UBaseType_t length, UBaseType_t size);
BaseType_t xQueueSend(QueueHandle_t queue, const void *item, TickType_t wait);
BaseType_t xQueueReceive(QueueHandle_t queue, void *item, TickType_t wait);
BaseType_t xQueueReset(QueueHandle_t queue);
