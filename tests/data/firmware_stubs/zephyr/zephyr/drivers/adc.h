/* SPDX-License-Identifier: Apache-2.0
 * Stub: the part of Zephyr's ADC driver that the sketch uses. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct adc_dt_spec {
	int channel;
};
struct adc_sequence {
	void *buffer;
	size_t buffer_size;
};
#define DT_PATH(node) 0 /* a token of the build's in truth, never an expression */
#define ADC_DT_SPEC_GET(node) {node}
bool adc_is_ready_dt(const struct adc_dt_spec *spec);
int adc_channel_setup_dt(const struct adc_dt_spec *spec);
int adc_sequence_init_dt(const struct adc_dt_spec *spec, struct adc_sequence *sequence);
int adc_read_dt(const struct adc_dt_spec *spec, const struct adc_sequence *sequence);
int adc_raw_to_microvolts_dt(const struct adc_dt_spec *spec, int32_t *value);
