// What Python sends with the state of every widget.

import { addTranslations } from "../src/texts/language";
import { PT_BR } from "../src/texts/pt-BR";
import { PYTHON_PT_BR } from "../src/texts/python.pt-BR";

addTranslations({ "pt-BR": { texts: Object.values(PT_BR), python: PYTHON_PT_BR } });
