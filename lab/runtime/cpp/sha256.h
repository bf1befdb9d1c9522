// SHA-256, FIPS 180-4. A device need not have a crypto library for one hash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lab {

class Sha256 {
 public:
  void Update(const void* data, size_t size_bytes);
  // Hex digest of everything given so far; the object is used up.
  std::string Hex();

 private:
  void Compress(const uint8_t* block);

  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t buffer_[64] = {};
  size_t num_buffered_ = 0;
  uint64_t num_bytes_ = 0;
};

// Hex digest of a file's bytes, read in pieces. Throws Error(integrity) when it cannot be read.
std::string Sha256File(const std::string& path);

}  // namespace lab
