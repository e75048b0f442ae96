#include "server/cli/load_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mambad::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

v1::GetLoadResponse SomeLoad() {
  v1::GetLoadResponse load;
  load.set_running(3);
  load.set_waiting(2);
  load.set_waiting_tokens(1500);
  load.set_slots_used(4);
  load.set_slots_total(16);
  load.set_tokens_per_second(123.45);
  load.set_acceptance_rate(0.62);
  load.set_state_bytes(2'500'000);
  load.set_speculation_enabled(true);
  load.set_estimated_wait_us(350'000);
  return load;
}

TEST(BarsTest, StandForTheirShares) {
  EXPECT_EQ(Bars({}, 1), "");
  EXPECT_EQ(Bars({0, 0.001, 0.5, 1, 2}, 1), " ▁▄██");
  EXPECT_EQ(Bars({0, 2, 4}, 0), " ▄█");  // for the highest
  EXPECT_EQ(Bars({0, 0}, 0), "  ");
}

TEST(LoadViewTest, ShowsTheLatestAndItsCourse) {
  LoadView view(6);
  v1::GetLoadResponse load = SomeLoad();
  load.set_tokens_per_second(0);
  for (int i = 0; i < 9; ++i) view.Add(load);
  view.Add(SomeLoad());
  const std::string text = view.Text("title");
  EXPECT_THAT(text, HasSubstr("title\n"));
  EXPECT_THAT(text, HasSubstr("tokens/s    123.5"));
  EXPECT_THAT(text, HasSubstr("|     █|\n"));
  EXPECT_THAT(text, HasSubstr("acceptance  0.62"));
  EXPECT_THAT(text, HasSubstr("2 requests, 1.50 K tokens"));
  EXPECT_THAT(text, HasSubstr("4 of 16                     25% |▂▂▂▂▂▂|"));
  EXPECT_THAT(text,
              HasSubstr("2.50 MB of state in use; a new request would wait for about 350 ms"));
  EXPECT_THAT(text, Not(HasSubstr("pages")));
  EXPECT_THAT(text, Not(HasSubstr("draining")));
}

TEST(LoadViewTest, SaysWhatIsUnusual) {
  LoadView view(6);
  EXPECT_EQ(view.Text("title"), "title\n\n");
  v1::GetLoadResponse load = SomeLoad();
  load.set_draining(true);
  load.set_speculation_enabled(false);
  load.set_pages_used(10);
  load.set_pages_total(40);
  view.Add(load);
  const std::string text = view.Text("title");
  EXPECT_THAT(text, HasSubstr("draining: takes no new requests\n"));
  EXPECT_THAT(text, HasSubstr("acceptance  off"));
  EXPECT_THAT(text, HasSubstr("pages       10 of 40"));
}

TEST(LoadLineTest, HoldsOneLook) {
  EXPECT_EQ(LoadLine(SomeLoad()),
            "serving: tokens/s 123.5, acceptance 0.62, running 3, waiting 2, slots 4 of 16, "
            "wait 350 ms");
}

}  // namespace
}  // namespace mambad::cli
