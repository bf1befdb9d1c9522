#include "json.h"

#include <utility>

namespace lab {

namespace ffi = tvm::ffi;

Json Json::Parse(const std::string& text, const std::string& where) {
  ffi::String problem;
  ffi::json::Value value = ffi::json::Parse(text, &problem);
  if (problem.size() > 0) throw Error(Kind::kArtifact, where + " is not valid JSON", problem);
  return Json(std::move(value), where);
}

Json Json::operator[](const std::string& key) const {
  const auto object = As<ffi::json::Object>("an object");
  const auto found = object.find(ffi::String(key));
  if (found == object.end()) {
    throw Error(Kind::kArtifact, "the manifest is incomplete or damaged", "no '" + key + "' in " + where_);
  }
  return Json((*found).second, where_ + "." + key);
}

bool Json::Has(const std::string& key) const { return As<ffi::json::Object>("an object").count(ffi::String(key)) > 0; }

int64_t Json::Int() const {
  // A JSON true is an integer to tvm-ffi's conversion, but not to us.
  if (value_.type_index() != ffi::TypeIndex::kTVMFFIInt) Fail("an integer");
  return value_.cast<int64_t>();
}

std::vector<Json> Json::List() const {
  std::vector<Json> items;
  for (const auto& item : As<ffi::json::Array>("a list")) {
    items.push_back(Json(item, where_ + "[" + std::to_string(items.size()) + "]"));
  }
  return items;
}

std::vector<std::string> Json::Keys() const {
  std::vector<std::string> keys;
  for (const auto& item : As<ffi::json::Object>("an object")) keys.push_back(item.first.cast<ffi::String>());
  return keys;
}

void Json::Fail(const char* expected) const {
  throw Error(Kind::kArtifact, "the manifest is incomplete or damaged", where_ + " has another type", expected);
}

}  // namespace lab
