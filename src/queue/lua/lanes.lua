-- What every script begins with. KEYS: prefix.
local prefix = KEYS[1]
-- In order of precedence. Before them, where no `ipairs` and no reader looks, the repairs': their
-- entries belong to an instance from the first.
local lanes = {[0] = prefix..'q:repair',
  prefix..'q:manual', prefix..'q:due', prefix..'q:bulk', prefix..'q:error'}
