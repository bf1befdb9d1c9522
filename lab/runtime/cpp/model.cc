#include "model.h"

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "error.h"

namespace lab {
namespace {

namespace ffi = tvm::ffi;

constexpr int kPooledAllocator = 2;  // AllocatorType::kPooled of tvm/runtime/memory/memory_manager.h
constexpr DLDevice kCpu{kDLCPU, 0};

// Compiled code loads whole vectors and relies on this alignment (kAllocAlignment in TVM).
struct AlignedCpuAllocator {
  static constexpr size_t kAlignment = 64;

  void AllocData(DLTensor* tensor) {
    const size_t size_bytes = ffi::GetDataSize(*tensor);
    const size_t rounded = (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, rounded ? rounded : kAlignment);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

ffi::Tensor ToTensor(const Array& array) {
  const DLDataType dtype{array.dtype->code, array.dtype->bits, 1};
  auto tensor = ffi::Tensor::FromNDAlloc(AlignedCpuAllocator(), ffi::ShapeView(array.shape.data(), array.shape.size()),
                                         dtype, kCpu);
  std::memcpy(tensor.data_ptr(), array.data.data(), array.data.size());
  return tensor;
}

Array ToArray(const ffi::Tensor& tensor) {
  Array array;
  const DLDataType dtype = tensor.dtype();
  array.dtype = FindDTypeByCode(dtype.code, dtype.bits);
  if (array.dtype == nullptr || dtype.lanes != 1 || !tensor.IsContiguous()) {
    throw Error(Kind::kUnsupported, "the model returned a tensor this runner cannot write");
  }
  array.shape.assign(tensor.shape().begin(), tensor.shape().end());
  const char* data = static_cast<const char*>(tensor.data_ptr()) + tensor.byte_offset();
  array.data.assign(data, data + NumElements(array.shape, array.dtype->size_bytes()) * array.dtype->size_bytes());
  return array;
}

ffi::Function Lookup(const ffi::Module& module, const std::string& name, const std::string& library) {
  auto function = module->GetFunction(name);
  if (!function.has_value()) throw Error(Kind::kRuntime, library + " has no function '" + name + "'");
  return *function;
}

}  // namespace

void ConfigureThreads(int num_threads) {
  setenv("TVM_NUM_THREADS", std::to_string(num_threads).c_str(), 1);
  // With TVM's own binding two workers can share one core while another is idle.
  setenv("TVM_BIND_THREADS", "0", 1);
}

struct Model::State {
  ffi::Module library;
  ffi::Module machine;
  ffi::Function function;
  std::vector<ffi::Tensor> inputs;
  ffi::Any result;
};

Model::Model(const std::string& folder, const Entry& entry) {
  const std::string path = folder + "/" + entry.library;
  try {
    ffi::Module library = ffi::Module::LoadFromFile(path);
    ffi::Module machine = Lookup(library, "vm_load_executable", path)().cast<ffi::Module>();
    Lookup(machine, "vm_initialization", path)(static_cast<int>(kCpu.device_type), kCpu.device_id, kPooledAllocator);
    ffi::Function function = Lookup(machine, kMain, path);
    state_.reset(new State{library, machine, function, {}, {}});
  } catch (const ffi::Error& error) {
    throw Error(Kind::kRuntime, path + " cannot be loaded", error.what());
  }
}

Model::~Model() = default;
Model::Model(Model&&) noexcept = default;

void Model::SetInputs(const std::vector<Array>& inputs) {
  state_->inputs.clear();
  for (const Array& array : inputs) state_->inputs.push_back(ToTensor(array));
}

void Model::Run() {
  std::vector<ffi::AnyView> arguments(state_->inputs.begin(), state_->inputs.end());
  try {
    state_->function.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &state_->result);
  } catch (const ffi::Error& error) {
    throw Error(Kind::kRuntime, "the model failed while running", error.what());
  }
}

std::vector<Array> Model::Outputs() const {
  if (auto single = state_->result.as<ffi::Tensor>()) return {ToArray(*single)};
  std::vector<Array> arrays;
  const auto several = state_->result.as<ffi::Array<ffi::Any>>();
  if (!several.has_value())
    throw Error(Kind::kUnsupported, "the model returned neither a tensor nor a tuple of tensors");
  for (const ffi::Any& item : *several) arrays.push_back(ToArray(item.cast<ffi::Tensor>()));
  return arrays;
}

}  // namespace lab
