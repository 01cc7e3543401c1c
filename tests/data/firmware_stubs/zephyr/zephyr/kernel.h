/* SPDX-License-Identifier: Apache-2.0
 * Stub: the part of Zephyr's kernel that the sketch uses. Proves nothing about the real one. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CONFIG_BT_DEVICE_NAME "Open EDA" /* from prj.conf */
#define CONFIG_MAIN_THREAD_PRIORITY 8

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

typedef struct {
	int64_t ticks;
} k_timeout_t;
#define K_NO_WAIT ((k_timeout_t){0})
#define K_FOREVER ((k_timeout_t){-1})
#define K_USEC(us) ((k_timeout_t){(us)})
#define K_SECONDS(s) ((k_timeout_t){(s) * 1000000})

struct k_msgq {
	size_t size;
};
#define K_MSGQ_DEFINE(name, item_size, items, align) struct k_msgq name = {(item_size) * (items) + 0 * (align)}
int k_msgq_put(struct k_msgq *queue, const void *item, k_timeout_t wait);
int k_msgq_get(struct k_msgq *queue, void *item, k_timeout_t wait);
void k_msgq_purge(struct k_msgq *queue);

struct k_sem {
	unsigned int count, limit;
};
#define K_SEM_DEFINE(name, initial, most) struct k_sem name = {initial, most}
int k_sem_take(struct k_sem *sem, k_timeout_t wait);
void k_sem_give(struct k_sem *sem);
void k_sem_reset(struct k_sem *sem);

struct k_timer {
	void (*expired)(struct k_timer *timer), (*stopped)(struct k_timer *timer);
};
#define K_TIMER_DEFINE(name, expired, stopped) struct k_timer name = {expired, stopped}
void k_timer_start(struct k_timer *timer, k_timeout_t first, k_timeout_t period);
void k_timer_stop(struct k_timer *timer);

struct k_work {
	void (*handler)(struct k_work *work);
};
#define K_WORK_DEFINE(name, handler) struct k_work name = {handler}
int k_work_submit(struct k_work *work);

struct k_thread_stub {
	size_t stack;
	void (*entry)(void *a, void *b, void *c);
	void *a, *b, *c;
	int priority, options, delay;
};
#define K_PRIO_PREEMPT(priority) (priority)
#define K_THREAD_DEFINE(name, stack, entry, a, b, c, priority, options, delay) \
	const struct k_thread_stub name = {stack, entry, a, b, c, priority, options, delay}

int64_t k_uptime_get(void);
uint32_t k_uptime_get_32(void);
