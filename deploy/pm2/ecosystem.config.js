// refreshd under PM2:
//
//   cargo build --release
//   cp .env.example .env      # and edit it
//   pm2 start deploy/pm2/ecosystem.config.js
//   pm2 logs refreshd
//
// Settings belong in .env: PM2 keeps the environment of the shell that called it, secrets included,
// in its dump file, and starts the daemon with it long after the shell's has changed.
const os = require('node:os');
const path = require('node:path');

const checkout = path.resolve(__dirname, '../..');
const logs = path.join(process.env.PM2_HOME || path.join(os.homedir(), '.pm2'), 'logs');

module.exports = {
  apps: [
    {
      name: 'refreshd',
      script: process.env.REFRESHD_BIN || path.join(checkout, 'target/release/refreshd'),
      args: 'run',
      interpreter: 'none',
      // .env and config/refreshd.toml are read from here, and the state is kept here, in ./state,
      // unless STATE_DIR names another folder.
      cwd: process.env.REFRESHD_CWD || checkout,
      exec_mode: 'fork',
      instances: 1,
      vizion: false,

      // Again after 69 (a service was unreachable at start), 75 (Redis was lost), 1 or a signal; not
      // after 64 and 78: a wrong command line or configuration stays wrong until someone mends it.
      autorestart: true,
      // (PM2 7 then lists it as "waiting restart" with pid 0, though nothing waits.)
      stop_exit_codes: [64, 78],
      // After 1 s, then half as long again each time, up to 15 s; from the start after 30 s alive.
      exp_backoff_restart_delay: 1000,
      // PM2 would give up after 16 starts within 16 s that lived less than a second each.
      max_restarts: Number.MAX_SAFE_INTEGER,

      // Longer than SHUTDOWN_TIMEOUT (30 s) and its last words; PM2's own default is 1.6 s. Raise
      // this with that.
      kill_timeout: 60000,

      // All log lines come on standard error, each with its time.
      error_file: path.join(logs, 'refreshd.log'),
      out_file: path.join(logs, 'refreshd-out.log'),
      merge_logs: true,
      time: false,
    },
  ],
};
