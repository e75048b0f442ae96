// A session's facts as the wire has them.

#ifndef MAMBAD_SERVER_SESSION_WIRE_H_
#define MAMBAD_SERVER_SESSION_WIRE_H_

#include "engine/session.h"
#include "mambad/v1/session.pb.h"

namespace mambad::server {

inline v1::Session ToWire(const SessionInfo& info) {
  v1::Session wire;
  wire.set_session_id(info.id);
  wire.set_position(info.position);
  wire.set_state_digest(info.digest);
  switch (info.tier) {
    case SessionTier::kText:
      wire.set_tier(v1::Session::TEXT);
      break;
    case SessionTier::kSlot:
      wire.set_tier(v1::Session::SLOT);
      break;
    case SessionTier::kHost:
      wire.set_tier(v1::Session::HOST);
      break;
    case SessionTier::kDisk:
      wire.set_tier(v1::Session::DISK);
      break;
  }
  wire.set_state_bytes(info.state_bytes);
  wire.mutable_checkpoints()->Add(info.checkpoints.begin(), info.checkpoints.end());
  wire.set_idle_us(absl::ToInt64Microseconds(info.idle));
  wire.set_in_use(info.in_use);
  wire.set_exact(info.exact);
  return wire;
}

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SESSION_WIRE_H_
