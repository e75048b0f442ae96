#include "server/trace_context.h"

#include <gtest/gtest.h>

namespace mambad::server {
namespace {

constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kSpan[] = "b7ad6b7169203331";

TEST(TraceContextTest, ReadsTraceAndSpan) {
  for (const char* value :
       {"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        // Of a later version, with what nobody knows yet.
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-brings"}) {
    const TraceContext trace = ParseTraceparent(value);
    EXPECT_EQ(trace.trace_id, kTrace) << value;
    EXPECT_EQ(trace.span_id, kSpan) << value;
  }
}

TEST(TraceContextTest, WhatIsNoneNamesNone) {
  for (const char* value : {
           "",
           "00",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
           "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
           "00-00000000000000000000000000000000-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\"-01",
           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
           "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
       }) {
    EXPECT_EQ(ParseTraceparent(value).trace_id, "") << value;
    EXPECT_EQ(ParseTraceparent(value).span_id, "") << value;
  }
}

}  // namespace
}  // namespace mambad::server
