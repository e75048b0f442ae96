#include "kernels/backend_factory.h"

#include <dlfcn.h>

#include <array>
#include <filesystem>
#include <optional>
#include <system_error>

#include "kernels/backend_module.h"
#include "kernels/cpu/cpu_backend.h"

namespace mambad::kernels {
namespace {

namespace fs = std::filesystem;

struct Library {
  void* handle = nullptr;
  std::string name;   // its path, where one is known
  std::string error;  // without a handle
  bool exists = true;
};

std::string LoaderError() {
  const char* const words = dlerror();
  return words != nullptr ? words : "the loader does not say why";
}

Library OpenAt(const std::string& name) {
  Library library{dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL), name, "", true};
  if (library.handle == nullptr) library.error = name + " cannot be loaded: " + LoaderError();
  return library;
}

// Beside the program (a build), in lib/mambad beside its folder (an installation), else wherever
// the system looks.
Library OpenLibrary(const std::string& file) {
  std::error_code none;
  const fs::path folder = fs::read_symlink("/proc/self/exe", none).parent_path();
  const std::array<fs::path, 2> places = {folder / file,
                                          folder.parent_path() / "lib" / "mambad" / file};
  for (const fs::path& place : places) {
    if (fs::exists(place, none)) return OpenAt(place);
  }
  Library library = OpenAt(file);
  // Said of the file itself, not of a library that it needs.
  if (library.handle == nullptr &&
      library.error.find(": " + file + ": cannot open shared object file") != std::string::npos) {
    library.exists = false;
    library.error = file + " was not found: looked for as " + places[0].string() + ", as " +
                    places[1].string() +
                    " and where the system looks for libraries: put the module of this build "
                    "there, or use the device cpu";
  }
  return library;
}

// The function `name` of a module; null with `error` set.
template <typename Function>
Function* Find(const Library& library, const char* name, std::string* error) {
  auto* const function = reinterpret_cast<Function*>(dlsym(library.handle, name));
  if (function == nullptr) *error = library.name + " is no module of mambad: it has no " + name;
  return function;
}

std::unique_ptr<Backend> CreateByModule(const Library& library, const BackendOptions& options,
                                        std::string* error) {
  auto* const contract =
      Find<decltype(MambadBackendContract)>(library, "MambadBackendContract", error);
  if (contract == nullptr) return nullptr;
  if (const std::string theirs = contract(); theirs != MAMBAD_BACKEND_CONTRACT) {
    *error = library.name + " is of another build (contract " + theirs + ", the program's is " +
             MAMBAD_BACKEND_CONTRACT + "): take module and program from the same one";
    return nullptr;
  }
  auto* const create = Find<decltype(MambadCreateBackend)>(library, "MambadCreateBackend", error);
  if (create == nullptr) return nullptr;
  return std::unique_ptr<Backend>(create(options, error));
}

// The device's number among those of its kind, 0 where none is named; nothing: no device's name.
std::optional<int> IndexOf(std::string_view name) {
  if (name == "auto" || name == "cpu" || name == "cuda") return 0;
  constexpr std::string_view kNumbered = "cuda:";
  constexpr size_t kMostDigits = 3;
  if (name.substr(0, kNumbered.size()) != kNumbered) return std::nullopt;
  name.remove_prefix(kNumbered.size());
  if (name.empty() || name.size() > kMostDigits) return std::nullopt;
  int index = 0;
  for (const char digit : name) {
    if (digit < '0' || digit > '9') return std::nullopt;
    index = 10 * index + (digit - '0');
  }
  return index;
}

CreatedBackend CreateOnCpu(const BackendOptions& options) {
  return {CreateCpuBackend({options.threads, options.activations}), "cpu", "", ""};
}

}  // namespace

bool IsDeviceName(std::string_view name) { return IndexOf(name).has_value(); }

CreatedBackend CreateBackend(const BackendOptions& given) {
  const std::optional<int> index = IndexOf(given.device);
  if (!index.has_value()) {
    return {nullptr, "", "\"" + given.device + "\" found, auto or cpu or cuda or cuda:N expected",
            ""};
  }
  BackendOptions options = given;
  options.index = *index;
  if (options.device == "cpu") return CreateOnCpu(options);
  const Library library = OpenLibrary("libmambad_cuda.so");
  CreatedBackend created{nullptr, options.device == "auto" ? "cuda" : options.device, library.error,
                         ""};
  if (library.handle != nullptr) {
    created.backend = CreateByModule(library, options, &created.error);
  }
  if (created.backend != nullptr || options.device != "auto") return created;
  CreatedBackend on_cpu = CreateOnCpu(options);
  if (library.exists) on_cpu.note = created.error;
  return on_cpu;
}

}  // namespace mambad::kernels
