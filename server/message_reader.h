// The bytes of a request become its message here and nowhere else. What protobuf would refuse
// without a word to the caller, or build without bound, is found before it sees the bytes.

#ifndef MAMBAD_SERVER_MESSAGE_READER_H_
#define MAMBAD_SERVER_MESSAGE_READER_H_

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>

#include <map>
#include <string>

#include "absl/status/status.h"

namespace mambad::server {

// By the full name of a repeated field of texts or messages ("mambad.v1.Stopping.stop_strings"):
// the most entries that are built. Others may have kMostEntries.
using EntryLimits = std::map<std::string, int64_t>;
inline constexpr int64_t kMostEntries = 65536;
// Fields of a request that this server does not know: of newer clients, or of another type than
// theirs.
inline constexpr int64_t kMostUnknownFields = 4096;

// Reads `bytes`, which are gone afterwards, over `message`. INVALID_ARGUMENT with
// google.rpc.BadRequest: a text that is not UTF-8, or too many entries, names the field as the wire
// contract spells it ("conversation.messages[3].content"); what is no message at all says where.
absl::Status ReadMessage(grpc::ByteBuffer* bytes, const EntryLimits& limits,
                         google::protobuf::Message* message);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_MESSAGE_READER_H_
