// A dense array in C order, and the dtypes the runner knows by their numpy names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lab {

struct DType {
  const char* name;   // numpy's name, as in a signature: "float32"
  const char* descr;  // as in a .npy header, without the byte-order character: "f4"
  uint8_t code;       // DLDataTypeCode
  uint8_t bits;

  size_t size_bytes() const { return bits / 8; }
};

// nullptr when the name is not known.
const DType* FindDTypeByName(const std::string& name);
const DType* FindDTypeByDescr(const std::string& descr);
const DType* FindDTypeByCode(uint8_t code, uint8_t bits);

struct Array {
  const DType* dtype = nullptr;
  std::vector<int64_t> shape;
  std::vector<char> data;
};

// Number of elements. Throws Error(data) naming `whose` array it is when the size overflows.
size_t NumElements(const std::vector<int64_t>& shape, size_t item_size_bytes, const std::string& whose = "an array");

// "float32[2, 3]"
std::string Describe(const std::string& dtype, const std::vector<int64_t>& shape);

}  // namespace lab
