// Whole files in and out.
#pragma once

#include <string>

#include "error.h"

namespace lab {

// Throws Error(kind) naming the file when it cannot be read.
std::string ReadFile(const std::string& path, Kind kind);

// A reader sees the old file or the new one, never half of one. Throws Error(storage).
void WriteFileAtomically(const std::string& path, const std::string& bytes);

// Creates `path` and its parents. Throws Error(storage).
void MakeFolder(const std::string& path);

}  // namespace lab
