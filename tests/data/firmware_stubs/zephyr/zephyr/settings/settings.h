/* SPDX-License-Identifier: Apache-2.0
 * Stub. */
#pragma once
int settings_load(void);
