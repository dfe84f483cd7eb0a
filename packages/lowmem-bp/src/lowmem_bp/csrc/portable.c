/* The kernels for any processor. */

#define ISA(name) name##_portable
#define WIDE 0
#include "kernels.h"
