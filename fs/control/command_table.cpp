// Every command of the control socket, one a line.
#include "fs/control/commands.h"

namespace lockfs::control {

const std::vector<Command>& commands() {
  static const std::vector<Command> kCommands = {
      {"ping", Access::kLook, ping},          //
      {"list", Access::kLook, list},          //
      {"stats", Access::kLook, stats},        //
      {"verify", Access::kLook, verify},      //
      {"watch", Access::kLook, watch},        //
      {"break", Access::kChange, take_away},  //
      {"set", Access::kChange, set},          //
      {"policy", Access::kLook, policy},      //
      {"set_policy", Access::kChange, set_policy},
      {"record", Access::kChange, record},    //
      {"upgrade", Access::kChange, upgrade},  //
  };
  return kCommands;
}

}  // namespace lockfs::control
