#include "engine/text/sentencepiece_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

#include "engine/text/sentencepiece_module.h"

namespace mambad::text {
namespace {

constexpr char kModule[] = "libmambad_sentencepiece.so";

#if defined(__has_feature)  // clang's way of asking
#if __has_feature(address_sanitizer)
#define MAMBAD_SANITIZER_LOADS
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(MAMBAD_THREAD_SANITIZER)
#define MAMBAD_SANITIZER_LOADS
#endif

#ifdef MAMBAD_SANITIZER_LOADS
constexpr int kOwnSymbolsFirst = 0;  // their loader refuses the flag
#else
constexpr int kOwnSymbolsFirst = RTLD_DEEPBIND;
#endif

using LoadFunction = decltype(&MambadLoadSentencePiece);

struct Module {
  LoadFunction load = nullptr;
  std::string error;
};

// Beside the program (a build), in lib/mambad beside its folder (an installation), else wherever
// the system looks.
void* OpenLibrary() {
  const int how = RTLD_NOW | RTLD_LOCAL | kOwnSymbolsFirst;
  std::error_code none;
  const std::filesystem::path folder =
      std::filesystem::read_symlink("/proc/self/exe", none).parent_path();
  for (const std::filesystem::path& place :
       {folder / kModule, folder.parent_path() / "lib" / "mambad" / kModule}) {
    if (void* const library = dlopen(place.c_str(), how)) return library;
  }
  return dlopen(kModule, how);
}

Module OpenModule() {
  Module module;
  // Not linked: the library exports the old protobuf that it carries, and in one scope of symbols
  // with a program's own protobuf one of the two would be served by the other and end the process.
  void* const handle = OpenLibrary();
  if (handle != nullptr)
    module.load = reinterpret_cast<LoadFunction>(dlsym(handle, "MambadLoadSentencePiece"));
  if (module.load == nullptr) {
    const char* const words = dlerror();
    module.error = std::string(kModule) + " cannot be loaded: " + (words != nullptr ? words : "?");
  }
  return module;
}

}  // namespace

std::unique_ptr<const SentencePieceLibrary> SentencePieceLibrary::Load(std::string_view model,
                                                                       std::string* error) {
  static const Module module = OpenModule();
  if (module.load == nullptr) {
    *error = module.error;
    return nullptr;
  }
  return std::unique_ptr<const SentencePieceLibrary>(module.load(model, error));
}

}  // namespace mambad::text
