// Every subcommand of lockfsctl, one a line, in the order of --help.
#include "mount-helpers/lockfsctl/subcommand.h"

namespace lockfs::ctl {

const std::vector<Add>& subcommands() {
  static const std::vector<Add> kAll = {
      add_list,     //
      add_who,      //
      add_graph,    //
      add_watch,    //
      add_record,   //
      add_top,      //
      add_break,    //
      add_policy,   //
      add_stats,    //
      add_verify,   //
      add_ping,     //
      add_mounts,   //
      add_upgrade,  //
      add_doctor,   //
  };
  return kAll;
}

}  // namespace lockfs::ctl
