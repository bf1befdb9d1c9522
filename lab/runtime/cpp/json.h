// Strict access to JSON values parsed by tvm-ffi: every look-up names its place, and a wrong type is an error.
#pragma once

#include <tvm/ffi/extra/json.h>

#include <string>
#include <vector>

#include "error.h"

namespace lab {

class Json {
 public:
  // Throws Error(artifact) naming `where` when the text is not JSON.
  static Json Parse(const std::string& text, const std::string& where);

  Json operator[](const std::string& key) const;
  bool Has(const std::string& key) const;
  std::string String() const { return As<tvm::ffi::String>("a string"); }
  int64_t Int() const;
  bool IsString() const { return value_.as<tvm::ffi::String>().has_value(); }
  bool IsNull() const { return value_ == nullptr; }
  std::vector<Json> List() const;
  std::vector<std::string> Keys() const;
  const std::string& where() const { return where_; }

 private:
  Json(tvm::ffi::json::Value value, std::string where) : value_(std::move(value)), where_(std::move(where)) {}

  template <typename T>
  T As(const char* expected) const {
    auto found = value_.as<T>();
    if (!found.has_value()) Fail(expected);
    return *found;
  }
  [[noreturn]] void Fail(const char* expected) const;

  tvm::ffi::json::Value value_;
  std::string where_;
};

}  // namespace lab
