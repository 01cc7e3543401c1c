/* What the sketch uses of Zephyr 4.x, declared and no more: to check its syntax and types, not to run it. */
#ifndef STUB_ZEPHYR_H
#define STUB_ZEPHYR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define CONFIG_BT_DEVICE_NAME "Open EDA"
#define CONFIG_MAIN_THREAD_PRIORITY 8

/* kernel */
typedef struct {
	int64_t ticks;
} k_timeout_t;
#define K_NO_WAIT ((k_timeout_t){0})
#define K_FOREVER ((k_timeout_t){-1})
#define K_SECONDS(s) ((k_timeout_t){(s)})
#define K_USEC(us) ((k_timeout_t){(int64_t)(us)})
#define K_PRIO_PREEMPT(priority) (priority)

struct k_msgq {
	size_t size;
};
struct k_sem {
	unsigned int count;
};
struct k_work {
	void (*handler)(struct k_work *);
};
struct k_timer {
	void (*expiry)(struct k_timer *);
};
#define K_MSGQ_DEFINE(name, msg_size, max, align) struct k_msgq name = {(msg_size) * (max)}
#define K_SEM_DEFINE(name, initial, limit) struct k_sem name = {initial}
#define K_WORK_DEFINE(name, work_handler) struct k_work name = {work_handler}
#define K_TIMER_DEFINE(name, on_expiry, on_stop) struct k_timer name = {on_expiry}
#define K_THREAD_DEFINE(name, stack, entry, p1, p2, p3, priority, options, delay) \
	void (*const name)(void *, void *, void *) = entry
int k_msgq_put(struct k_msgq *queue, const void *data, k_timeout_t wait);
int k_msgq_get(struct k_msgq *queue, void *data, k_timeout_t wait);
void k_msgq_purge(struct k_msgq *queue);
int k_sem_take(struct k_sem *sem, k_timeout_t wait);
void k_sem_give(struct k_sem *sem);
void k_sem_reset(struct k_sem *sem);
int k_work_submit(struct k_work *work);
void k_timer_start(struct k_timer *timer, k_timeout_t first, k_timeout_t period);
void k_timer_stop(struct k_timer *timer);
int64_t k_uptime_get(void);
uint32_t k_uptime_get_32(void);

/* sys/atomic.h, random/random.h, settings/settings.h */
typedef long atomic_t;
#define ATOMIC_INIT(value) (value)
long atomic_get(const atomic_t *target);
long atomic_set(atomic_t *target, long value);
long atomic_clear(atomic_t *target);
uint32_t sys_rand32_get(void);
int settings_load(void);

/* drivers/adc.h */
struct adc_dt_spec {
	int channel;
};
struct adc_sequence {
	void *buffer;
	size_t buffer_size;
};
#define DT_PATH(node) 0
#define ADC_DT_SPEC_GET(node) {node}
bool adc_is_ready_dt(const struct adc_dt_spec *spec);
int adc_channel_setup_dt(const struct adc_dt_spec *spec);
int adc_sequence_init_dt(const struct adc_dt_spec *spec, struct adc_sequence *sequence);
int adc_read_dt(const struct adc_dt_spec *spec, const struct adc_sequence *sequence);
int adc_raw_to_microvolts_dt(const struct adc_dt_spec *spec, int32_t *value);

#endif
