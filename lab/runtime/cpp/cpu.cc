#include "cpu.h"

#include <sched.h>

#include <fstream>
#include <sstream>
#include <thread>

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace lab {

std::string CpuArch() {
#if defined(__aarch64__)
  return "aarch64";
#elif defined(__x86_64__)
  return "x86_64";
#else
#error "lab_run is written for x86-64 and aarch64"
#endif
}

#if defined(__aarch64__)

std::set<std::string> CpuFeatures() {
  struct Bit {
    unsigned long word, mask;
    const char* name;
  };
  const unsigned long low = getauxval(AT_HWCAP), high = getauxval(AT_HWCAP2);
  // Names as in Documentation/arch/arm64/elf_hwcaps.rst and /proc/cpuinfo.
  const Bit bits[] = {
      {low, HWCAP_FP, "fp"},
      {low, HWCAP_ASIMD, "asimd"},
      {low, HWCAP_AES, "aes"},
      {low, HWCAP_PMULL, "pmull"},
      {low, HWCAP_SHA1, "sha1"},
      {low, HWCAP_SHA2, "sha2"},
      {low, HWCAP_CRC32, "crc32"},
      {low, HWCAP_ATOMICS, "atomics"},
      {low, HWCAP_FPHP, "fphp"},
      {low, HWCAP_ASIMDHP, "asimdhp"},
      {low, HWCAP_ASIMDRDM, "asimdrdm"},
      {low, HWCAP_JSCVT, "jscvt"},
      {low, HWCAP_FCMA, "fcma"},
      {low, HWCAP_LRCPC, "lrcpc"},
      {low, HWCAP_DCPOP, "dcpop"},
      {low, HWCAP_SHA3, "sha3"},
      {low, HWCAP_SHA512, "sha512"},
      {low, HWCAP_ASIMDDP, "asimddp"},
      {low, HWCAP_SVE, "sve"},
      {low, HWCAP_ASIMDFHM, "asimdfhm"},
      {low, HWCAP_USCAT, "uscat"},
      {low, HWCAP_ILRCPC, "ilrcpc"},
      {low, HWCAP_CPUID, "cpuid"},
      {low, HWCAP_SSBS, "ssbs"},
      {high, HWCAP2_SVE2, "sve2"},
      {high, HWCAP2_I8MM, "i8mm"},
      {high, HWCAP2_BF16, "bf16"},
      {high, HWCAP2_SVEI8MM, "svei8mm"},
      {high, HWCAP2_SVEBF16, "svebf16"},
      {high, HWCAP2_FRINT, "frint"},
  };
  std::set<std::string> names;
  for (const Bit& bit : bits) {
    if (bit.word & bit.mask) names.insert(bit.name);
  }
  return names;
}

#else

std::set<std::string> CpuFeatures() {
  std::ifstream file("/proc/cpuinfo");
  std::string line, word;
  while (std::getline(file, line)) {
    if (line.compare(0, 5, "flags") != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    std::set<std::string> names;
    while (words >> word) names.insert(word);
    return names;
  }
  return {};
}

#endif

int NumCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  const unsigned found = std::thread::hardware_concurrency();
  return found ? static_cast<int>(found) : 1;
}

}  // namespace lab
