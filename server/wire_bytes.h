// Messages and the bytes that gRPC carries.

#ifndef MAMBAD_SERVER_WIRE_BYTES_H_
#define MAMBAD_SERVER_WIRE_BYTES_H_

#include <google/protobuf/message.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/byte_buffer.h>

namespace mambad::server {

// A request's bytes, which gRPC would keep until its call is done, and tells as const only because
// most calls have no use for them.
inline grpc::ByteBuffer TakeBytes(const grpc::ByteBuffer* request) {
  grpc::ByteBuffer taken;
  taken.Swap(const_cast<grpc::ByteBuffer*>(request));
  return taken;
}

inline grpc::ByteBuffer ToBytes(const google::protobuf::Message& message) {
  grpc::ByteBuffer bytes;
  bool own = false;
  grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &bytes, &own);
  return bytes;
}

// The same, and the message is empty and has given its memory back.
template <typename Message>
grpc::ByteBuffer TakeMessage(Message* message) {
  grpc::ByteBuffer bytes = ToBytes(*message);
  Message().Swap(message);
  return bytes;
}

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_WIRE_BYTES_H_
