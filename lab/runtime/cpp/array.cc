#include "array.h"

#include <limits>

#include "error.h"

namespace lab {
namespace {

// DLPack type codes: 0 signed, 1 unsigned, 2 float, 6 bool.
constexpr DType kDTypes[] = {
    {"float32", "f4", 2, 32}, {"float64", "f8", 2, 64}, {"float16", "f2", 2, 16}, {"int8", "i1", 0, 8},
    {"int16", "i2", 0, 16},   {"int32", "i4", 0, 32},   {"int64", "i8", 0, 64},   {"uint8", "u1", 1, 8},
    {"uint16", "u2", 1, 16},  {"uint32", "u4", 1, 32},  {"uint64", "u8", 1, 64},  {"bool", "b1", 6, 8},
};

}  // namespace

const DType* FindDTypeByName(const std::string& name) {
  for (const DType& dtype : kDTypes) {
    if (name == dtype.name) return &dtype;
  }
  return nullptr;
}

const DType* FindDTypeByDescr(const std::string& descr) {
  for (const DType& dtype : kDTypes) {
    if (descr == dtype.descr) return &dtype;
  }
  return nullptr;
}

const DType* FindDTypeByCode(uint8_t code, uint8_t bits) {
  for (const DType& dtype : kDTypes) {
    if (code == dtype.code && bits == dtype.bits) return &dtype;
  }
  return nullptr;
}

size_t NumElements(const std::vector<int64_t>& shape, size_t item_size_bytes, const std::string& whose) {
  size_t count = 1;
  const size_t limit = std::numeric_limits<size_t>::max() / 2 / item_size_bytes;
  for (int64_t dim : shape) {
    if (dim > 0 && count > limit / static_cast<size_t>(dim)) {
      throw Error(Kind::kData, whose + " is too large for this machine", Describe("", shape));
    }
    count *= static_cast<size_t>(dim);
  }
  return count;
}

std::string Describe(const std::string& dtype, const std::vector<int64_t>& shape) {
  std::string text = dtype + "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace lab
