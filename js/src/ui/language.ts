import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { type Language, languageOf } from "../texts/language";

/** The language of the widget that a component belongs to. */
export const LanguageContext = createContext(languageOf("en"));

export function useLanguage(): Language {
  return useContext(LanguageContext);
}
