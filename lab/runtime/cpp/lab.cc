// The C API over Runner: exceptions end here, and everything a caller was given a pointer to lives in lab_model.
#include "lab.h"

#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "array.h"
#include "cpu.h"
#include "error.h"
#include "manifest.h"
#include "model.h"
#include "runner.h"

namespace lab {
namespace {

// A TensorSpec as C sees it.
struct Spec {
  explicit Spec(const TensorSpec& spec) : name(spec.name), dtype(spec.dtype) {
    for (const Dim& dim : spec.shape) {
      shape.push_back(dim.symbol.empty() ? dim.size : -1);
      names.push_back(dim.symbol);
    }
    for (const std::string& each : names) symbols.push_back(each.empty() ? nullptr : each.c_str());
  }
  Spec(const Spec&) = delete;  // `symbols` points into `names`

  lab_spec View() const { return {name.c_str(), dtype.c_str(), shape.size(), shape.data(), symbols.data()}; }

  std::string name, dtype;
  std::vector<int64_t> shape;
  std::vector<std::string> names;
  std::vector<const char*> symbols;
};

using Specs = std::vector<std::unique_ptr<Spec>>;

Specs ToSpecs(const std::vector<TensorSpec>& from) {
  Specs specs;
  for (const TensorSpec& spec : from) specs.push_back(std::make_unique<Spec>(spec));
  return specs;
}

std::string Names(const Specs& specs) {
  std::string names;
  for (const auto& spec : specs) names += (names.empty() ? "" : ", ") + spec->name;
  return names;
}

size_t IndexOf(const Specs& specs, const char* name, Kind kind, const char* what) {
  const std::string wanted = name ? name : "NULL";
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i]->name == wanted) return i;
  }
  throw Error(kind, what, wanted, Names(specs));
}

const Spec& At(const Specs& specs, size_t index, const char* what) {
  if (index < specs.size()) return *specs[index];
  throw Error(Kind::kUsage, what, std::to_string(index), "less than " + std::to_string(specs.size()));
}

void CheckNotNull(const void* pointer, const char* what) {
  if (pointer == nullptr) throw Error(Kind::kUsage, std::string(what) + " is NULL");
}

}  // namespace
}  // namespace lab

struct lab_model {
  std::string error;
  lab::Specs inputs, outputs;
  std::map<std::string, lab::Array> given;
  std::vector<lab::Array> results;
  std::unique_ptr<lab::Runner> runner;
};

namespace {

using lab::Error;
using lab::Kind;

// Runs `body`; what it throws becomes a status and the model's error.
template <typename Body>
lab_status Guard(lab_model* model, const Body& body) noexcept {
  if (model == nullptr) return LAB_USAGE;
  lab_status status = LAB_RUNTIME;
  try {
    try {
      model->error.clear();
      body();
      return LAB_OK;
    } catch (const Error& error) {
      status = static_cast<lab_status>(error.kind());
      model->error = error.what();
    } catch (const std::bad_alloc&) {
      model->error = "no memory is left";
    } catch (const std::exception& error) {
      model->error = error.what();
    } catch (...) {
      model->error = "an error of an unknown kind";
    }
  } catch (...) {  // no memory for the message
  }
  return status;
}

void Open(lab_model* model, const char* bundle, const lab_options& options) {
  lab::CheckNotNull(bundle, "the bundle's path");
  if (options.num_threads < 0) {
    throw Error(Kind::kUsage, "the number of threads is negative", std::to_string(options.num_threads));
  }
  const auto manifest = lab::Manifest::Load(bundle, options.function ? options.function : lab::kMain);
  manifest.CheckMachine();
  if (!options.skip_verification) manifest.CheckFiles(bundle);
  lab::ConfigureThreads(options.num_threads ? options.num_threads : lab::NumCores());
  model->inputs = lab::ToSpecs(manifest.signature.inputs);
  model->outputs = lab::ToSpecs(manifest.signature.outputs);
  model->runner = std::make_unique<lab::Runner>(bundle, manifest, options.batch_size);
}

lab::Runner& Opened(lab_model* model) {
  if (!model->runner) throw Error(Kind::kUsage, "the model is not open", "", "", "see what lab_open returned");
  return *model->runner;
}

}  // namespace

int lab_api_version(void) { return LAB_API_VERSION; }

const char* lab_status_name(lab_status status) {
  return status == LAB_OK ? "ok" : lab::KindName(static_cast<Kind>(status));
}

lab_status lab_open(const char* bundle, const lab_options* options, lab_model** model) {
  if (model == nullptr) return LAB_USAGE;
  *model = new (std::nothrow) lab_model;
  if (*model == nullptr) return LAB_RUNTIME;
  const lab_options defaults = LAB_DEFAULT_OPTIONS;
  return Guard(*model, [&] { Open(*model, bundle, options ? *options : defaults); });
}

const char* lab_error(const lab_model* model) { return model ? model->error.c_str() : "no memory is left"; }

void lab_close(lab_model* model) { delete model; }

size_t lab_num_inputs(const lab_model* model) { return model ? model->inputs.size() : 0; }

size_t lab_num_outputs(const lab_model* model) { return model ? model->outputs.size() : 0; }

lab_status lab_input(lab_model* model, size_t index, lab_spec* spec) {
  return Guard(model, [&] {
    lab::CheckNotNull(spec, "spec");
    *spec = lab::At(model->inputs, index, "the model has no such input").View();
  });
}

lab_status lab_output(lab_model* model, size_t index, lab_spec* spec) {
  return Guard(model, [&] {
    lab::CheckNotNull(spec, "spec");
    *spec = lab::At(model->outputs, index, "the model has no such output").View();
  });
}

lab_status lab_set_input(lab_model* model, const char* name, const char* dtype, const void* data, const int64_t* shape,
                         size_t num_dims) {
  return Guard(model, [&] {
    Opened(model);
    const std::string known = model->inputs.at(lab::IndexOf(model->inputs, name, Kind::kData,
                                                            "input names do not match the signature"))->name;
    lab::Array array;
    array.dtype = dtype ? lab::FindDTypeByName(dtype) : nullptr;
    if (array.dtype == nullptr) {
      throw Error(Kind::kData, "input '" + known + "' has a dtype this runner does not know", dtype ? dtype : "NULL",
                  "numpy's name, such as float32");
    }
    if (num_dims > 0) {
      lab::CheckNotNull(shape, "shape");
      array.shape.assign(shape, shape + num_dims);
    }
    for (const int64_t dim : array.shape) {
      if (dim < 0) throw Error(Kind::kData, "input '" + known + "' has a negative dimension", std::to_string(dim));
    }
    const size_t item_bytes = array.dtype->size_bytes();
    array.data.resize(lab::NumElements(array.shape, item_bytes, "input '" + known + "'") * item_bytes);
    if (!array.data.empty()) {
      lab::CheckNotNull(data, "data");
      std::memcpy(array.data.data(), data, array.data.size());
    }
    model->given[known] = std::move(array);
  });
}

lab_status lab_run(lab_model* model) {
  return Guard(model, [&] {
    model->results.clear();
    model->results = Opened(model).Run(model->given);
  });
}

lab_status lab_get_output(lab_model* model, const char* name, lab_tensor* tensor) {
  return Guard(model, [&] {
    lab::CheckNotNull(tensor, "tensor");
    const size_t index = lab::IndexOf(model->outputs, name, Kind::kUsage, "the model has no such output");
    if (model->results.empty()) throw Error(Kind::kUsage, "the model has not run", "", "", "call lab_run first");
    const lab::Array& array = model->results.at(index);
    *tensor = {array.dtype->name, array.shape.size(), array.shape.data(), array.data.data(), array.data.size()};
  });
}

lab_status lab_time(lab_model* model, size_t num_calls, double* milliseconds, int64_t* batch_size) {
  return Guard(model, [&] {
    model->results.clear();
    lab::CheckNotNull(milliseconds, "milliseconds");
    lab::Chunk timed;
    const auto found = Opened(model).Time(model->given, static_cast<int>(num_calls), &timed);
    std::memcpy(milliseconds, found.data(), found.size() * sizeof(double));
    if (batch_size) *batch_size = timed.batch_size;
  });
}
