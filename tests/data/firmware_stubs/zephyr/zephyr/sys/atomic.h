/* SPDX-License-Identifier: Apache-2.0
 * Stub: the part of Zephyr's atomics that the sketch uses. */
#pragma once
typedef long atomic_t;
typedef long atomic_val_t;
#define ATOMIC_INIT(value) (value)
atomic_val_t atomic_get(const atomic_t *target);
atomic_val_t atomic_set(atomic_t *target, atomic_val_t value);
atomic_val_t atomic_clear(atomic_t *target);
