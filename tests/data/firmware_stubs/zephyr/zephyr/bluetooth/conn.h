#include <zephyr/bluetooth/gatt.h>
