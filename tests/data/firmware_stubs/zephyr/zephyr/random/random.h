/* SPDX-License-Identifier: Apache-2.0
 * Stub. */
#pragma once
#include <stdint.h>
uint32_t sys_rand32_get(void);
