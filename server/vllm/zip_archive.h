// Zip archives (APPNOTE.TXT 6.3.3) of a few small files, made in memory.

#ifndef MAMBAD_SERVER_VLLM_ZIP_ARCHIVE_H_
#define MAMBAD_SERVER_VLLM_ZIP_ARCHIVE_H_

#include <string>
#include <utility>
#include <vector>

namespace mambad::server {

// Names and contents, deflated, in this order. Equal files give equal bytes: no times are in them.
// Contents of less than 4 GiB each, and together.
std::string ZipArchive(const std::vector<std::pair<std::string, std::string>>& files);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_VLLM_ZIP_ARCHIVE_H_
