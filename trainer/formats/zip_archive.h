// The files inside a zip archive, as far as PyTorch writes one: stored without compression.

#ifndef MAMBAD_TRAINER_FORMATS_ZIP_ARCHIVE_H_
#define MAMBAD_TRAINER_FORMATS_ZIP_ARCHIVE_H_

#include <cstddef>
#include <map>
#include <string>

#include "absl/types/span.h"

namespace mambad::trainer {

// Name -> contents, which point into `bytes`. Zip and Zip64 (APPNOTE.TXT 6.3); every offset and
// length is checked before it is used. Throws std::runtime_error, beginning with `source`: no zip
// archive, a damaged or truncated one, entries that are compressed, encrypted, overlapping or named
// twice. Checksums are not computed: they would cost a pass over all weights.
std::map<std::string, absl::Span<const std::byte>> ReadZipArchive(
    const std::string& source, absl::Span<const std::byte> bytes);

// Whether the bytes begin as an archive does.
bool IsZipArchive(absl::Span<const std::byte> bytes);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_ZIP_ARCHIVE_H_
