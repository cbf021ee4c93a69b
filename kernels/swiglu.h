// The gated activation of values in memory.
#pragma once
#include "device.h"

__device__ inline float gated(float gate, float up) { return gate / (1.0f + exp(-gate)) * up; }
