#pragma once

// A stand-in for the header of this name, with which CUDA sources compile as C++ and run on the
// CPU. Device memory is host memory. Only what this project uses is here.

#include "cpp/tests/emulation/cuda/cuda_runtime_api.h"
#include "cpp/tests/emulation/cuda/device_code.h"
#include "cpp/tests/emulation/cuda/kernel_launch.h"
