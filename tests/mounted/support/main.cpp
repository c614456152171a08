/// main() of every mounted test program: GoogleTest, or, when an actor has exec'ed the program,
/// that actor again.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "tests/mounted/support/actor.h"

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--serve-actor") == 0) {
    lockfs::test::serve_actor(std::atoi(argv[2]));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
