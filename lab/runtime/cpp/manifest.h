// The part of a bundle's manifest.json that running it needs. Format: lab/artifacts/manifest.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "signature.h"

namespace lab {

// The function of a model that is one call; also the name of every library's function inside.
inline constexpr char kMain[] = "main";

// One compiled function; `batch_size` 0 takes any batch. `function` is "main", or that of a program.
struct Entry {
  std::string library;
  int64_t batch_size = 0;
  std::string function;
  std::string level;  // of a fat bundle: the CPU it was compiled for
};

struct TargetInfo {
  std::string name;
  std::string mcpu;
  std::string kind;
  std::string arch;
  std::vector<std::string> required_features;
};

struct Manifest {
  std::string name;
  Signature signature;
  TargetInfo target;
  std::vector<Entry> entries;
  std::map<std::string, std::string> sha256_of_file;

  // Throws Error(artifact): no manifest, not JSON, another schema version, not a bundle, a field missing or of another
  // type. Throws Error(usage): the bundle has no such function. `signature` and `entries` are those of `function`.
  static Manifest Load(const std::string& folder, const std::string& function);

  // Throws Error(incompatible) naming what this machine lacks.
  void CheckMachine() const;

  // Throws Error(integrity) naming the first file that is missing, escapes the folder, has other bytes or, being a
  // library, is not recorded.
  void CheckFiles(const std::string& folder) const;
};

}  // namespace lab
