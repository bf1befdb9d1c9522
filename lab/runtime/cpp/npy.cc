#include "npy.h"

#include <cstdio>
#include <cstring>
#include <fstream>

#include "error.h"
#include "files.h"

namespace lab {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMagicSize = 6;
constexpr size_t kAlignment = 64;

[[noreturn]] void Bad(const std::string& path, const std::string& got, const std::string& expected,
                      const std::string& hint = "") {
  throw Error(Kind::kData, path + " cannot be read as a .npy array", got, expected, hint);
}

// Reads a Python dict literal of exactly the three keys numpy writes; anything else is an error.
class HeaderReader {
 public:
  HeaderReader(const std::string& path, const std::string& text) : path_(path), text_(text) {}

  void Read() {
    Expect('{');
    while (!TryConsume('}')) {
      ReadEntry();
      if (!TryConsume(',')) {
        Expect('}');
        break;
      }
    }
    SkipSpace();
    if (at_ != text_.size() || seen_ != 7) Fail();
  }

  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;

 private:
  void ReadEntry() {
    const std::string key = ReadString();
    Expect(':');
    if (key == "descr") {
      Mark(1);
      descr = ReadString();
    } else if (key == "fortran_order") {
      Mark(2);
      fortran_order = ReadBool();
    } else if (key == "shape") {
      Mark(4);
      ReadShape();
    } else {
      Fail();
    }
  }

  void ReadShape() {
    Expect('(');
    while (!TryConsume(')')) {
      shape.push_back(ReadInt());
      if (!TryConsume(',')) {
        Expect(')');
        break;
      }
    }
  }

  int64_t ReadInt() {
    SkipSpace();
    const size_t start = at_;
    int64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value * 10 + (text_[at_++] - '0');
      if (at_ - start > 18) Fail();
    }
    if (at_ == start) Fail();
    return value;
  }

  bool ReadBool() {
    SkipSpace();
    for (const char* word : {"True", "False"}) {
      if (text_.compare(at_, std::strlen(word), word) == 0) {
        at_ += std::strlen(word);
        return word[0] == 'T';
      }
    }
    Fail();
  }

  std::string ReadString() {
    SkipSpace();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') Fail();
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string::npos) Fail();
    std::string value = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return value;
  }

  void Mark(int bit) {
    if (seen_ & bit) Fail();
    seen_ |= bit;
  }

  bool TryConsume(char wanted) {
    SkipSpace();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void Expect(char wanted) {
    if (!TryConsume(wanted)) Fail();
  }

  void SkipSpace() {
    while (at_ < text_.size() && std::strchr(" \t\n", text_[at_]) != nullptr && text_[at_] != '\0') ++at_;
  }

  [[noreturn]] void Fail() const {
    Bad(path_, "header " + text_.substr(0, 120), "{'descr': '<f4', 'fortran_order': False, 'shape': (...)}",
        "structured dtypes are not supported; save a plain array with numpy.save");
  }

  const std::string& path_;
  const std::string& text_;
  size_t at_ = 0;
  int seen_ = 0;
};

size_t ReadHeaderSize(const std::string& path, const std::string& bytes, size_t* start) {
  if (bytes.size() < 10 || std::memcmp(bytes.data(), kMagic, kMagicSize) != 0) {
    Bad(path, std::to_string(bytes.size()) + " bytes without the .npy magic", "a file written by numpy.save");
  }
  const int major = static_cast<unsigned char>(bytes[6]);
  if (major != 1 && major != 2) Bad(path, ".npy version " + std::to_string(major), "version 1 or 2");
  const size_t num_length_bytes = major == 1 ? 2 : 4;
  *start = 8 + num_length_bytes;
  if (bytes.size() < *start) Bad(path, "a truncated header", "a complete file");
  size_t size = 0;
  for (size_t i = 0; i < num_length_bytes; ++i) {
    size |= static_cast<size_t>(static_cast<unsigned char>(bytes[8 + i])) << (8 * i);
  }
  if (bytes.size() - *start < size) Bad(path, "a truncated header", "a complete file");
  return size;
}

const DType* ParseDescr(const std::string& path, const std::string& descr) {
  const bool one_byte = descr.size() == 3 && descr[2] == '1';
  if (descr.empty() || !(descr[0] == '<' || (descr[0] == '|' && one_byte))) {
    Bad(path, "dtype '" + descr + "'", "a little-endian dtype such as '<f4'",
        "array.astype(array.dtype.newbyteorder('<'))");
  }
  const DType* dtype = FindDTypeByDescr(descr.substr(1));
  if (dtype == nullptr) Bad(path, "dtype '" + descr + "'", "a plain float, integer or bool dtype");
  return dtype;
}

std::string Header(const Array& array) {
  std::string shape;
  for (int64_t dim : array.shape) shape += std::to_string(dim) + ", ";
  if (array.shape.size() > 1) shape.resize(shape.size() - 2);
  if (array.shape.size() == 1) shape.pop_back();
  const std::string order = array.dtype->bits == 8 ? "|" : "<";
  std::string text =
      "{'descr': '" + order + array.dtype->descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
  const size_t unpadded = kMagicSize + 4 + text.size() + 1;
  text.append((kAlignment - unpadded % kAlignment) % kAlignment, ' ');
  return text + "\n";
}

}  // namespace

Array ReadNpy(const std::string& path) {
  const std::string bytes = ReadFile(path, Kind::kData);
  size_t start = 0;
  const size_t header_size = ReadHeaderSize(path, bytes, &start);
  const std::string text = bytes.substr(start, header_size);
  HeaderReader header(path, text);
  header.Read();
  if (header.fortran_order) {
    Bad(path, "Fortran order", "C order", "save numpy.ascontiguousarray(array)");
  }
  Array array;
  array.dtype = ParseDescr(path, header.descr);
  array.shape = header.shape;
  const size_t wanted = NumElements(array.shape, array.dtype->size_bytes(), path) * array.dtype->size_bytes();
  const size_t found = bytes.size() - start - header_size;
  if (found != wanted) {
    Bad(path, std::to_string(found) + " bytes of data",
        std::to_string(wanted) + " bytes for " + Describe(array.dtype->name, array.shape),
        found < wanted ? "the file is truncated: copy it again" : "");
  }
  array.data.assign(bytes.begin() + static_cast<std::ptrdiff_t>(start + header_size), bytes.end());
  return array;
}

void WriteNpy(const std::string& path, const Array& array) {
  const std::string header = Header(array);
  const char prefix[] = {1, 0, static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  std::string bytes(kMagic, kMagicSize);
  bytes.append(prefix, sizeof(prefix));
  bytes += header;
  bytes.append(array.data.begin(), array.data.end());
  WriteFileAtomically(path, bytes);
}

}  // namespace lab
