// What the CPU this program runs on is, in the Linux kernel's spelling of features.
#pragma once

#include <set>
#include <string>

namespace lab {

// "x86_64" or "aarch64": what this program was compiled for, hence what it can load.
std::string CpuArch();

// x86-64: the flags of /proc/cpuinfo. aarch64: the kernel's hardware capabilities (getauxval), which are right under
// qemu-user as well, where /proc/cpuinfo may be the host's.
std::set<std::string> CpuFeatures();

// Cores this process may use (affinity respected).
int NumCores();

}  // namespace lab
