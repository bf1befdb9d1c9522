#include "signature.h"

namespace lab {

std::string TensorSpec::ToString() const {
  std::string text = dtype + "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + (shape[i].symbol.empty() ? std::to_string(shape[i].size) : shape[i].symbol);
  }
  return text + "]";
}

}  // namespace lab
