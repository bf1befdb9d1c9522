// .npy files, format versions 1.0 and 2.0: C order, little endian, the dtypes of array.h.
// Source: numpy.lib.format ("NPY format"), https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#pragma once

#include <string>

#include "array.h"

namespace lab {

// Throws Error(data) naming the file when it is missing, not .npy, Fortran-ordered, big-endian, of another dtype,
// truncated, or longer than its header says.
Array ReadNpy(const std::string& path);

// Writes version 1.0 to a temporary file beside `path` and renames it. Throws Error(storage).
void WriteNpy(const std::string& path, const Array& array);

}  // namespace lab
