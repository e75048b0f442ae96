#ifndef MAMBAD_SERVER_VERSION_H_
#define MAMBAD_SERVER_VERSION_H_

namespace mambad::server {

// "MAJOR.MINOR.PATCH", from the build.
inline constexpr char kVersion[] = MAMBAD_VERSION;

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_VERSION_H_
