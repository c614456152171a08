// Figures, and the three forms of a report.
#include "mount-helpers/replay/report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "mount-helpers/replay/drawing.h"
#include "tests/replay/traces.h"

namespace replay::testing {
namespace {

TEST(Figures, Jain) {
  EXPECT_DOUBLE_EQ(jain_index({}), 1);
  EXPECT_DOUBLE_EQ(jain_index({0.3, 0.3, 0.3}), 1);
  EXPECT_DOUBLE_EQ(jain_index({1, 0, 0, 0}), 0.25);
}

TEST(Figures, Percentiles) {
  std::vector<Nanoseconds> times;
  EXPECT_EQ(percentile(times, 0.5).count(), 0);
  for (int i = 1; i <= 100; ++i) times.emplace_back(i);
  EXPECT_EQ(percentile(times, 0.50).count(), 50);
  EXPECT_EQ(percentile(times, 0.99).count(), 99);
  EXPECT_EQ(percentile(times, 1).count(), 100);
  EXPECT_EQ(percentile({Nanoseconds(7)}, 0.99).count(), 7);
}

TEST(Figures, ReadableTimes) {
  EXPECT_EQ(readable(Nanoseconds(0)), "0");
  EXPECT_EQ(readable(Nanoseconds(999)), "999 ns");
  EXPECT_EQ(readable(Nanoseconds(12'340)), "12.3 us");
  EXPECT_EQ(readable(Nanoseconds(3'400'000)), "3.4 ms");
  EXPECT_EQ(readable(Nanoseconds(2'500'000'000)), "2.50 s");
}

/// What is wrong with a page as XML: tags that do not match, attributes without quotes, stray
/// characters. Empty: nothing. Knows what the report uses, not XML.
std::string broken_xml(std::string_view page) {
  std::vector<std::string> open;
  const std::string_view doctype = "<!DOCTYPE html>";
  if (page.substr(0, doctype.size()) != doctype) return "no doctype";
  page.remove_prefix(doctype.size());
  while (!page.empty()) {
    const auto begin = page.find('<');
    const std::string_view text = page.substr(0, begin);
    for (auto amp = text.find('&'); amp != std::string_view::npos; amp = text.find('&', amp + 1)) {
      const auto end = text.find(';', amp);
      if (end == std::string_view::npos || end - amp > 6) return "a bare & in the text";
    }
    if (text.find('>') != std::string_view::npos && (open.empty() || open.back() != "style")) {
      return "a bare > in the text";
    }
    if (begin == std::string_view::npos) break;
    const auto end = page.find('>', begin);
    if (end == std::string_view::npos) return "a tag without end";
    std::string_view tag = page.substr(begin + 1, end - begin - 1);
    page.remove_prefix(end + 1);
    if (tag.find('<') != std::string_view::npos) return "a < within a tag";
    if (tag.front() == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "stray </" + std::string(tag) + ">";
      open.pop_back();
      continue;
    }
    int quotes = 0;
    for (std::size_t i = 0; i < tag.size(); ++i) {
      if (tag[i] == '"') ++quotes;
      if (tag[i] == '=' && quotes % 2 == 0 && (i + 1 == tag.size() || tag[i + 1] != '"')) {
        return "an attribute without quotes in " + std::string(tag);
      }
    }
    if (quotes % 2 != 0) return "an odd number of quotes in " + std::string(tag);
    if (tag.back() != '/') open.emplace_back(tag.substr(0, tag.find(' ')));
  }
  return open.empty() ? "" : "<" + open.back() + "> is never closed";
}

TEST(BrokenXml, FindsWhatIsBroken) {
  EXPECT_EQ(broken_xml("<!DOCTYPE html><a b=\"c\">x &amp; y<d/></a>"), "");
  EXPECT_NE(broken_xml("<!DOCTYPE html><a><b></a></b>"), "");
  EXPECT_NE(broken_xml("<!DOCTYPE html><a b=c></a>"), "");
  EXPECT_NE(broken_xml("<!DOCTYPE html><a> x & y</a>"), "");
  EXPECT_NE(broken_xml("<!DOCTYPE html><a>"), "");
}

class ReportTest : public ::testing::Test {
 protected:
  ReportTest() : trace_(sample()) {
    trace_.actors[0].command = "<script>alert(1)</script>&\xff\x01";
    outcomes_.push_back(replay(trace_));
    outcomes_.push_back(replay(trace_));
    outcomes_.back().policy = "other";
    // As if one had been let in that should not.
    outcomes_.back().hazard_count = 1;
    outcomes_.back().hazards.push_back({0, 0, 1, Nanoseconds(5)});
  }
  Comparison comparison() const { return {trace_, "a <trace>", outcomes_}; }

  Trace trace_;
  std::vector<Outcome> outcomes_;
};

TEST_F(ReportTest, PageIsWellFormed) { EXPECT_EQ(broken_xml(html_report(comparison())), ""); }

TEST_F(ReportTest, PageNeedsNothingElse) {
  const std::string page = html_report(comparison());
  for (const char* reference : {" src=", " href=", "url(", "@import", "<script", "<link", "<iframe",
                                "<object", "<embed", "xmlns"}) {
    EXPECT_EQ(page.find(reference), std::string::npos) << reference;
  }
  // Names of programs and files are text, never markup.
  EXPECT_NE(page.find("&lt;script"), std::string::npos);
}

TEST_F(ReportTest, PageShowsThePlotsAndTheHazard) {
  const std::string page = html_report(comparison());
  EXPECT_NE(page.find("<polyline"), std::string::npos);
  EXPECT_NE(page.find("Lost exclusion under other"), std::string::npos);
  // A bar of somebody who waits, one of an exclusive and one of a shared holder.
  for (const char* colour : {"#e0523c", "#1d4e79", "#8fbce0"}) {
    EXPECT_NE(page.find(colour), std::string::npos) << colour;
  }
}

TEST_F(ReportTest, PageOfAnEmptyTrace) {
  const Trace empty;
  const std::vector<Outcome> outcomes = {replay(empty)};
  EXPECT_EQ(broken_xml(html_report({empty, "empty", outcomes})), "");
}

TEST_F(ReportTest, JsonHasTheFigures) {
  const auto json = nlohmann::json::parse(json_report(comparison()));
  EXPECT_EQ(json["policies"].size(), 2U);
  const auto& nfs = json["policies"][0];
  EXPECT_EQ(nfs["policy"], "nfs");
  EXPECT_EQ(nfs["granted"], outcomes_[0].grants);
  EXPECT_DOUBLE_EQ(nfs["wait"]["max"].get<double>(), 0.005);
  EXPECT_EQ(json["policies"][1]["hazards"], 1);
  EXPECT_EQ(json["policies"][1]["first_hazards"][0]["holder_pid"], 100);
}

TEST_F(ReportTest, TableHasAColumnForEachPolicy) {
  const std::string table = text_report(comparison());
  const std::string first = table.substr(0, table.find('\n'));
  EXPECT_NE(first.find("nfs"), std::string::npos);
  EXPECT_NE(first.find("other"), std::string::npos);
  EXPECT_NE(table.find("lost exclusion"), std::string::npos);
}

TEST(Escaped, KeepsTextAndNothingElse) {
  EXPECT_EQ(escaped("a<b>&\"c"), "a&lt;b&gt;&amp;&quot;c");
  EXPECT_EQ(escaped("\xc3\xa9"), "\xc3\xa9");
  EXPECT_EQ(escaped("\xc3(\xff\n"), "?(??");
}

}  // namespace
}  // namespace replay::testing
