// lockfsctl doctor: checks the machine for known traps and says the cure for each.
#include <fmt/format.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "mount-helpers/lockfsctl/doctor.h"

namespace lockfs::ctl {

namespace {

struct DoctorOptions {
  std::string source;
  std::string mountpoint;
  std::string root;
};

/// Every check, in the order of the report.
constexpr std::array<Check, 10> kChecks = {
    check_device,  check_passthrough, check_timeouts, check_descriptors, check_mounts,
    check_exports, check_statd,       check_grace,    check_local_lock,  check_bypass};

std::string canonical(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  if (error) throw Error(fmt::format("{}: {}", path, error.message()), 2);
  return real;
}

std::vector<Patient> patients_of(const Globals& globals, const DoctorOptions& options) {
  std::vector<Patient> patients;
  const std::string source = options.source.empty() ? "" : canonical(options.source);
  const std::string mountpoint = options.mountpoint.empty() ? "" : canonical(options.mountpoint);
  for (const Client& client : all_mounts(globals)) {
    const MountInfo& mount = client.mount();
    if (!source.empty() && mount.source != source && mount.mountpoint != source) continue;
    if (!mountpoint.empty() && mount.mountpoint != mountpoint) continue;
    patients.push_back({options.root, mount.source, mount.mountpoint, mount});
  }
  if (patients.empty()) patients.push_back({options.root, source, mountpoint, std::nullopt});
  return patients;
}

int doctor(const Globals& globals, const DoctorOptions& options) {
  bool trapped = false;
  for (const Patient& patient : patients_of(globals, options)) {
    if (!patient.source.empty()) {
      std::cout << fmt::format("{} on {}{}:\n", patient.source,
                               patient.mountpoint.empty() ? "?" : patient.mountpoint,
                               patient.mount ? "" : " (not mounted)");
    }
    for (const Check check : kChecks) {
      for (const Finding& finding : check(patient)) {
        const char* grade = finding.grade == Finding::Grade::kFine   ? "ok  "
                            : finding.grade == Finding::Grade::kNote ? "note"
                                                                     : "TRAP";
        trapped = trapped || finding.grade == Finding::Grade::kTrap;
        std::cout << fmt::format("{}  {}\n", grade, finding.text);
        if (!finding.cure.empty()) std::cout << fmt::format("      cure: {}\n", finding.cure);
      }
    }
  }
  return trapped ? 1 : 0;
}

}  // namespace

std::optional<std::string> Patient::line_of(const std::string& path) const {
  std::ifstream file(at(path));
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

void add_doctor(CLI::App& app, const Globals& globals, Run& run) {
  auto* sub =
      app.add_subcommand("doctor", "Check the machine for known traps; status 1 if there are any");
  auto o = std::make_shared<DoctorOptions>();
  sub->add_option("SOURCE", o->source, "What is, or is to be, mounted (default: every mount)");
  sub->add_option("MOUNT", o->mountpoint, "Where");
  sub->add_option("--root", o->root, "Look at system files below this folder")->group("");
  sub->callback([&globals, &run, o] { run = [&globals, o] { return doctor(globals, *o); }; });
}

}  // namespace lockfs::ctl
